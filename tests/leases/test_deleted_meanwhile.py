"""A queue is deleted while one of its jobs moves to another queue: the move is complete, and no worker ends."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.delivery.dead_letters import letters
from gateway.delivery.delay import server_watch
from gateway.leases.lease import Place
from tests.leases.rig import rig
from tests.leases.test_moves import left
from tests.multiplex.client import Rig as MultiplexedBroker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory):
    with MultiplexedBroker(tmp_path_factory.mktemp("broker") / "data") as shared:
        yield shared


def over(broker, work):
    async def go():
        async with rig(broker.address, worker_socket=broker.socket) as made:
            await work(made)

    asyncio.run(go())


def delete_after_put(made, broker, target, *deleted):
    """Once something is stored on `target`, another client deletes the queues `deleted`."""
    put = made.kestrel.put

    async def put_and_delete(key, *arguments, **options):
        stored = await put(key, *arguments, **options)
        if key == target:
            for queue in deleted:
                assert await asyncio.to_thread(broker.ask, f"delete {queue}") == "DELETED"
        return stored

    made.kestrel.put = put_and_delete


def test_a_job_that_becomes_a_dead_letter(broker):
    """Its attempts are used up when a poll finds it."""

    async def work(made):
        await made.put("q")
        taken = await made.take("q")
        await made.registry.nack(taken.lease.id, asked=Place.HEAD)
        made.moves.max_attempts = lambda _: 1
        delete_after_put(made, broker, "q__dead", "q")
        assert await made.take("q", timeout_s=0.2) is None
        assert len(await left(made, "q__dead")) == 1

    over(broker, work)


def test_a_dead_letter_that_is_a_job_again(broker):
    """Its redrive has the answer of one that succeeds."""

    async def work(made):
        await made.put("r")
        taken = await made.take("r")
        await made.registry.reject(taken.lease.id, reason="no")
        delete_after_put(made, broker, "r", "r__dead")
        letter = await made.kestrel.wait("r__dead", 0).result()
        assert (await made.redrive_one(made.queue("r"), letter)).redriven == 1
        assert len(await left(made, "r")) == 1

    over(broker, work)


def test_a_delayed_job(broker, caplog):
    """It arrives once, and that is no failure, after which the others of its holding queue would wait."""

    async def work(made):
        await made.put("d")
        taken = await made.take("d")
        delete_after_put(made, broker, "d", *made.holding.keys)
        await made.registry.nack(taken.lease.id, delay_s=0.05)
        again = await made.take("d", timeout_s=20)
        await made.registry.ack(again.lease.id)
        assert await left(made, "d") == []
        assert made.mover.statistics.doubled == 0

    with caplog.at_level(logging.DEBUG, logger=server_watch.log.name):
        over(broker, work)
    assert [each.getMessage() for each in caplog.records if each.name == server_watch.log.name] == []


def test_a_dead_letter_that_is_deleted(broker, monkeypatch):
    """It is gone, as its caller wants it."""
    is_wanted = letters._is

    def wanted_and_deleted(*given):
        assert broker.ask("delete e__dead") == "DELETED"
        return is_wanted(*given)

    async def work(made):
        await made.put("e", job_id="e1")
        taken = await made.take("e")
        await made.registry.reject(taken.lease.id, reason="no")
        monkeypatch.setattr(letters, "_is", wanted_and_deleted)
        assert (await made.dead_letters().delete(made.queue("e"), "e1")).result is None
        assert await left(made, "e__dead") == []

    over(broker, work)
