"""The ack that a poll asks for: it is done before a job is taken, and every answer says so."""

from __future__ import annotations

from gateway.api.exchange import Call
from gateway.api.handlers.leases import Leases
from gateway.api.request.polls import PollRequest
from gateway.leases.ahead import AckAhead


class PollAcks:
    """Acks the lease that a poll names."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def ahead(self, call: Call, poll: PollRequest) -> AckAhead | None:
        """The ack, for the receiver. None if the poll names no lease or the ack is done. Raises what the ack raises."""
        if not poll.acks:
            return None
        ahead = await self._leases.ack_ahead(call, poll.acks)
        call.context.lease_acked = ahead is None
        return ahead

    async def done(self, call: Call, poll: PollRequest) -> None:
        """Acks the lease, if the poll names one. Raises what the ack raises."""
        ahead = await self.ahead(call, poll)
        if ahead is not None:
            await ahead.done()
            call.context.lease_acked = True  # from here on every answer says so


def note_acked(call: Call, ahead: AckAhead | None) -> None:
    """Every answer from now on says so if the lease is acked, errors included."""
    if ahead is not None:
        call.context.lease_acked |= ahead.acked
