"""A lease that is acked before its consumer gets it, where the consumer or Kestrel fails in between."""

import asyncio

import pytest

from gateway.delivery.receive import NextOptions
from gateway.errors import BackendRefused, OutcomeUnknown
from tests.kestrel.standin import StandIn, answer, hang_up, silence
from tests.lab.waiting import undisturbed
from tests.leases.rig import rig


def take(made, on_gone=lambda _: lambda: None, timeout_s=5.0):
    return made.receiver.next(made.queue("q"), NextOptions(timeout_s, lambda _: 100, on_gone, at_most_once=True))


def test_a_consumer_that_left_after_the_job_was_taken_does_not_lose_it():
    """The ack has not begun: the job goes back, and nobody got it."""

    async def main():
        registered = []

        def on_gone(callback):
            registered.append(callback)
            if len(registered) > 1:  # it left when its poll had been served
                callback()
            return lambda: None

        async with StandIn() as server, rig(server.address) as made:
            await made.put("q")
            assert (await take(made, on_gone, timeout_s=0)).result is None
            delivered = (await take(made)).result
            assert (delivered.lease.state.value, made.registry.leases.statistics().ended["client_gone"]) == ("acked", 1)

    asyncio.run(main())


@pytest.mark.parametrize("fault", [silence, hang_up], ids=["silent", "hangs up"])
@undisturbed(0.1)
def test_an_ack_without_an_answer_delivers_nothing(fault):
    """The job may be gone: the consumer is told so, and does not get the job, which may come again."""

    async def main():
        async with StandIn() as server, rig(server.address, kestrel_command_timeout_s=0.3) as made:
            await made.put("q")
            server.manners.once("confirm", fault)
            with pytest.raises(OutcomeUnknown):
                await take(made)
            again = (await take(made)).result  # this server had not confirmed it
            assert again.lease.state.value == "acked"

    asyncio.run(main())


def test_an_ack_that_is_refused_leaves_the_job():
    """It is back on its queue."""

    async def main():
        async with StandIn() as server, rig(server.address) as made:
            await made.put("q")
            server.manners.once("confirm", answer(b"SERVER_ERROR busy\r\n", close=True))
            with pytest.raises(BackendRefused):
                await take(made)
            assert (await take(made)).result is not None

    asyncio.run(main())


def test_a_job_that_went_back_by_itself_is_taken_again():
    """Kestrel no longer held it (`ERROR`): the same poll takes it again, and acks it then."""

    async def main():
        async with StandIn() as server, rig(server.address) as made:
            await made.put("q")
            server.manners.once("confirm", answer(b"ERROR\r\n", close=True))
            delivered = (await take(made)).result
            assert delivered.lease.state.value == "acked"
            assert made.registry.leases.statistics().ended["backend_lost"] == 1

    asyncio.run(main())
