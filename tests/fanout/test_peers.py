"""What the other workers of a gateway are asked when a subscription is created or deleted, over their real sockets."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gateway.delivery.subscriptions.peers import PeerWorkers
from gateway.errors import BackendUnavailable
from gateway.forwarding.commands import LeaseCommand, Result, Verb
from gateway.forwarding.workers import WorkerLinks, WorkerServer
from tests.kestrel.standin import StandIn
from tests.kestrel.support import client


@pytest.mark.parametrize(
    ("answers", "have"), [([0, 0], True), ([0, 1], False), ([0, BackendUnavailable("down")], False), ([], True)]
)
def test_a_subscription_is_complete_when_the_members_of_every_worker_have_it(short_path, answers, have):
    """One that misses it on a member, or cannot tell, makes the creation incomplete."""
    asked: list[LeaseCommand] = []

    async def main() -> bool:
        async with contextlib.AsyncExitStack() as stack:
            for number, answer in enumerate(answers):

                async def execute(command: LeaseCommand, answer: Result = answer) -> Result:
                    asked.append(command)
                    return answer

                server = WorkerServer(short_path, f"{number:016x}", execute)
                await server.start()
                stack.push_async_callback(server.close)
            links = WorkerLinks(short_path, "f" * 16)
            stack.push_async_callback(links.close)
            return await PeerWorkers(links, 5.0).have("q+a")

    assert asyncio.run(main()) is have
    assert [(each.verb, each.subject) for each in asked] == [(Verb.ENSURE_CHILD, "q+a")] * len(answers)


def test_a_worker_creates_a_child_that_its_members_lack():
    """It tells how many could not be asked."""

    async def main():
        async with StandIn() as one, StandIn() as two, client(one.address, two.address) as kestrel:
            one.create("q+a")
            assert await kestrel.fanout.ensure("q+a") == 0
            assert "q+a" in two.queues

    asyncio.run(main())
