"""An ack that goes to the server in one write with the take of the next job. The server takes the job after the ack."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.leases.lease import Lease, LeaseRecord, State
from gateway.leases.settlements import Settlements


class AckAhead:
    """The ack of a lease that is held here. It is begun once, by `begin` or by `done`.

    read: the lease's. acked: whether the job is gone. ack: acks the lease with that id in the usual way.
    """

    __slots__ = ("_ack", "_begun", "_lease", "_settlements", "acked", "read")

    def __init__(self, lease: Lease, settlements: Settlements, ack: Callable[[str], Awaitable[LeaseRecord]]) -> None:
        assert lease.read is not None
        self.read = lease.read
        self.acked = False
        self._lease = lease
        self._settlements = settlements
        self._ack = ack
        self._begun = False

    def begin(self) -> bool:
        """Begins the ack. Returns whether it is sent in this turn of the loop; in any case call `done`."""
        if self._lease.state is not State.HELD:
            return False
        self._begun = True
        return self._settlements.start_ack(self._lease)

    async def done(self) -> None:
        """Returns when the job is gone. Raises and Cancelled: as Registry.ack."""
        if self.acked:
            return
        if self._begun:
            await self._settlements.settled(self._lease, State.ACKED, mine=True)
        else:
            await self._ack(self._lease.id)
        self.acked = True
