"""Executes what another worker of this gateway asks, or a replica through it: about leases, polls, puts and children.

`delivery.subscriptions.peers.PeerWorkers` and `forwarding` send these commands.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.delivery.receive import Receiver
from gateway.errors import GatewayError
from gateway.forwarding.commands import LeaseCommand, Result, Verb
from gateway.forwarding.lease_lists import LeaseLists
from gateway.forwarding.router import LeaseRouter
from gateway.kestrel.fanout import Fanout


class WorkerCommands:
    """on_lease: called after each command about a lease."""

    def __init__(
        self,
        receiver: Receiver,
        fanout: Fanout,
        router: LeaseRouter,
        lease_lists: LeaseLists,
        *,
        on_lease: Callable[[], None],
    ) -> None:
        self._receiver = receiver
        self._fanout = fanout
        self._router = router
        self._lease_lists = lease_lists
        self._on_lease = on_lease

    async def execute(self, command: LeaseCommand) -> Result:
        """The result, for the worker that asked. An error of the gateway is returned, not raised."""
        match command.verb:
            case Verb.END_POLLS:
                self._receiver.end_polls(command.subject)
                return 0
            case Verb.HOLD_PUTS:
                await self._fanout.hold(command.subject, command.length_s)
                return 0
            case Verb.ENSURE_CHILD:
                try:
                    return await self._fanout.ensure(command.subject)
                except GatewayError as exc:
                    return exc
            case Verb.LIST_LEASES:
                return self._lease_lists.own(command.subject)
            case Verb.RELEASE_PUTS:
                self._fanout.release(command.subject)
                return 0
        try:
            return await self._router.execute(command)
        finally:
            self._on_lease()
