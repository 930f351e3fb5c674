"""An ack that goes to the server in one write with the take of the next job. The server takes the job after the ack."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.leases.lease import Lease, LeaseRecord, OpenRead, State


class AckAhead:
    """The ack of a lease that is held here. It is begun once, by `begin` or by `done`.

    read: the lease's. acked: whether the job is gone. start: begins the ack of a held lease, and returns whether it is
    sent in this turn of the loop. settled: waits for its end. ack: both.
    """

    def __init__(
        self,
        lease: Lease,
        read: OpenRead,
        start: Callable[[], bool],
        settled: Callable[[], Awaitable[LeaseRecord]],
        ack: Callable[[], Awaitable[LeaseRecord]],
    ) -> None:
        self.read = read
        self.acked = False
        self._lease = lease
        self._start = start
        self._settled = settled
        self._ack = ack
        self._begun = False

    def begin(self) -> bool:
        """Begins the ack. Returns whether it is sent in this turn of the loop; in any case call `done`."""
        if self._lease.state is not State.HELD:
            return False
        self._begun = True
        return self._start()

    async def done(self) -> None:
        """Returns when the job is gone. Raises and Cancelled: as Registry.ack."""
        if not self.acked:
            await (self._settled() if self._begun else self._ack())
            self.acked = True
