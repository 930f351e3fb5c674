"""The ack that comes with a poll is done before anything that the poll waits for, and whatever the poll ends with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.coverage import Coverage
from gateway.delivery.receive import Delivery, Hold, NextOptions
from gateway.errors import QueueNotFound
from gateway.leases.lease import State
from tests.kestrel.conftest import on_a_socket
from tests.lab.broker import BrokerProcess
from tests.leases.rig import Rig, rig


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with on_a_socket(tmp_path_factory.mktemp("broker")) as started:
        yield started


async def held(made: Rig) -> Delivery:
    """A job that its consumer has."""
    await made.put("jobs")
    delivery = await made.take("jobs")
    assert delivery is not None
    return delivery


async def next_with_ack(made: Rig, name: str, delivery: Delivery, timeout_s: float) -> Delivery | Hold | None:
    """The result of a poll of that queue which acks the lease of the job."""
    ahead = made.registry.ack_ahead(delivery.lease.id)
    assert ahead is not None
    options = NextOptions(timeout_s, lambda _: 100, lambda _: lambda: None)
    found = await made.receiver.next(made.queue(name), options, ahead)
    assert ahead.acked
    return found.result


def test_a_subscription_that_is_paused_while_it_is_looked_up(broker: BrokerProcess) -> None:
    """The poll waits for the end of the pause, and the lease does not wait for the end of the poll."""

    async def main() -> None:
        async with rig(broker.address) as made:
            await made.kestrel.fanout.create("orders+audit", 10)
            child, delivery = made.queue("orders+audit"), await held(made)
            missing = made.kestrel.missing

            async def paused_meanwhile(key: str) -> Coverage | None:
                await made.pauses.begin(child, None, "")
                return await missing(key)

            made.kestrel.missing = paused_meanwhile  # type: ignore[method-assign]
            polling = asyncio.create_task(next_with_ack(made, "orders+audit", delivery, 5))
            async with asyncio.timeout(4):
                while delivery.lease.state is not State.ACKED:
                    await asyncio.sleep(0.01)
                while not made.receiver.waiting:
                    await asyncio.sleep(0.01)
            assert not polling.done()
            await made.pauses.end(child)
            made.kestrel.missing = missing  # type: ignore[method-assign]
            await made.kestrel.put("orders", b"1")
            found: Any = await polling
            await made.registry.ack(found.lease.id)

    asyncio.run(main())


def test_a_subscription_that_does_not_exist(broker: BrokerProcess) -> None:
    """The poll is refused, and the lease is acked."""

    async def main() -> None:
        async with rig(broker.address) as made:
            delivery = await held(made)
            with pytest.raises(QueueNotFound):
                await next_with_ack(made, "orders+nobody", delivery, 0)
            assert delivery.lease.state is State.ACKED

    asyncio.run(main())
