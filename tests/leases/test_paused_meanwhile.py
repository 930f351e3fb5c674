"""A worker that is stopped between taking several jobs and delivering them, while their queue is paused elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.delivery.batches import BatchReceiver
from gateway.delivery.control.control import FRESH_S, Control
from gateway.delivery.filling_batch import BatchSize
from gateway.delivery.ordered_queues import OrderedQueues
from gateway.delivery.pause import Pauses
from gateway.delivery.poll_limits import PollLimits
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.receive import Hold, NextOptions
from gateway.delivery.streams.source import QueueSource
from gateway.fairness.turns import Turns
from gateway.kestrel.server.pinned_read import PinnedRead
from gateway.kestrel.server.shared_reads import SharedRead
from tests.kestrel.conftest import on_a_socket
from tests.lab.broker import BrokerProcess
from tests.leases.rig import Rig, rig


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with on_a_socket(tmp_path_factory.mktemp("broker")) as started:
        yield started


async def batch(made: Rig, queue: Queue) -> int:
    """How many jobs a batch of the queue delivers."""
    receiver = BatchReceiver(
        made.receiver,
        made.registry,
        made.moves,
        made.tasks,
        pauses=made.pauses,
        caps=made.caps,
        turns=Turns(),
        ordered=OrderedQueues(),
    )
    size = BatchSize(5, 1 << 20)
    found = await receiver.next(queue, size, NextOptions(0, lambda _: 100, lambda _: lambda: None))
    assert found.result is None or isinstance(found.result, Hold)
    return 0


async def stream(made: Rig, queue: Queue) -> int:
    """How many jobs a stream of the queue delivers at once."""
    source = QueueSource(
        made.receiver,
        made.registry,
        made.caps,
        made.tasks,
        queue=lambda: queue,
        lease_s=lambda _: 100,
        at_most_once=False,
    )
    return len(await source.next(5, 0, lambda _: lambda: None, made.registry.limits))


@pytest.mark.parametrize("deliver", [batch, stream])
def test_none_of_them_is_delivered(broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, deliver: Any) -> None:
    """They are back on the queue, in their order, and have used no attempt."""

    async def main() -> None:
        async with rig(broker.address) as made:
            control = Control(made.kestrel.each_member, "_kestrel-gateway__control", eager=True)
            elsewhere = Pauses(control, made.catalog, PollLimits(1, tenant_limit=1, queue_limit=1))
            await control.start()
            queue = made.queue(deliver.__name__)
            for number in range(3):
                await made.put(queue.name, b"%d" % number)

            async def after_a_stop(*_: Any) -> tuple[()]:
                await elsewhere.begin(queue, None, "")
                time.sleep(FRESH_S + 0.1)  # noqa: ASYNC251 (the whole process is stopped)
                return ()

            for read in (PinnedRead, SharedRead):
                monkeypatch.setattr(read, "more", after_a_stop)
            assert await deliver(made, queue) == 0
            await elsewhere.end(queue)
            await control.close()
            await made.control.refresh()
            for number in range(3):
                delivery = await made.take(queue.name)
                assert delivery is not None
                assert (delivery.job.payload, delivery.lease.attempt) == (b"%d" % number, 1)
                await made.registry.ack(delivery.lease.id)

    asyncio.run(main())
