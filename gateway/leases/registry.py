"""The leases of one worker: opened, settled, expired, remembered for a while. Knows no HTTP, no forwarding.

1. A lease is in `_open` exactly while its state is HELD or SETTLING, that is while it has an open read.
2. Every lease leaves `_open` through `_end`, which counts it and remembers how it ended.
3. A settlement is a task of the lifespan's group: a request that is cancelled leaves it running to its end.
4. opened = acked + nacked + expired + lost + dropped + returned + unknown + open, at every instant.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import BackendRefused, InvalidBody, LeaseForgotten, LeaseLost, OutcomeUnknown, TooManyLeases
from gateway.leases.ids import LeaseIds
from gateway.leases.lease import Lease, OpenRead, State, answer_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryStatistics:
    """opened counts every lease ever handed out here; ended by how they ended; open those that have not."""

    opened: int
    open: int
    remembered: int
    ended: dict[str, int]


class Registry:
    """Owns every open read that has been handed to a consumer.

    tasks: the lifespan's group, which settlements belong to. limit: leases open at once.
    longest_s: no lease lasts longer in all, extensions included; 0: no bound of that kind.
    memory_s, memory_limit: how long, and how many, ended leases are remembered.
    """

    def __init__(
        self,
        ids: LeaseIds,
        tasks: asyncio.TaskGroup,
        *,
        limit: int,
        longest_s: float,
        memory_s: float,
        memory_limit: int,
    ) -> None:
        self._ids = ids
        self._tasks = tasks
        self._limit = limit
        self._longest_s = longest_s
        self._memory_s = memory_s
        self._memory_limit = memory_limit
        self._open: dict[str, Lease] = {}
        self._ended: OrderedDict[str, tuple[float, Lease]] = OrderedDict()
        self._heap: list[tuple[float, int, Lease]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0
        self._opened = 0
        self._outcomes: Counter[State] = Counter()
        self._listeners: list[Callable[[Lease], None]] = []

    def __len__(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        return f"<Registry open={len(self._open)} remembered={len(self._ended)}>"

    def statistics(self) -> RegistryStatistics:
        ended = {state.value: count for state, count in self._outcomes.items()}
        return RegistryStatistics(self._opened, len(self._open), len(self._ended), ended)

    def check_room(self) -> None:
        """Raises TooManyLeases when no further lease may be opened."""
        if len(self._open) >= self._limit:
            raise TooManyLeases(f"{self._limit} leases are open here already")

    def open(
        self,
        read: OpenRead,
        *,
        tenant: str,
        queue: str,
        key: str,
        job_id: str | None,
        attempt: int,
        length_s: float,
    ) -> Lease:
        """A new lease over `read`, HELD for `length_s` seconds. Raises TooManyLeases; the read stays the caller's."""
        self.check_room()
        now_s = time.monotonic()
        lease = Lease(
            id=self._ids.new(tenant),
            queue=queue,
            key=key,
            job_id=job_id,
            attempt=attempt,
            deadline_s=now_s + length_s,
            expires_at_s=time.time() + length_s,
            latest_s=now_s + self._longest_s if self._longest_s else float("inf"),
            read=read,
        )
        self._open[lease.id] = lease
        self._opened += 1
        self._schedule(lease)
        read.on_lost(lambda: self._lost(lease))
        return lease

    def find(self, lease_id: str) -> Lease:
        """The lease, open or remembered. Raises LeaseForgotten."""
        lease = self._open.get(lease_id)
        if lease is not None:
            return lease
        self._forget()
        if lease_id in self._ended:
            return self._ended[lease_id][1]
        raise LeaseForgotten("the lease ended too long ago to know how")

    async def ack(self, lease_id: str) -> Lease:
        """The job is gone for good when this returns; again so when it was acked before.

        Raises: LeaseConflict, LeaseExpired, LeaseLost, QueueDeleted, LeaseForgotten; OutcomeUnknown; BackendRefused
        when Kestrel said no just now: the lease is lost, the job is back on its queue.
        Cancelled: the settlement goes on.
        """
        return await self._settle(lease_id, State.ACKED)

    async def nack(self, lease_id: str) -> Lease:
        """The job is back at the head of its queue when this returns. Raises and Cancelled: as for `ack`."""
        return await self._settle(lease_id, State.NACKED)

    async def extend(self, lease_id: str, length_s: float) -> Lease:
        """The lease now ends `length_s` seconds from this moment.

        Raises: as `ack`; InvalidBody when the lease would outlast what Kestrel allows an open read.
        """
        lease = self.find(lease_id)
        if lease.settlement is not None and lease.state is State.SETTLING:
            await asyncio.shield(lease.settlement)
        if lease.state is not State.HELD:
            raise _ended_error(lease, State.HELD)
        deadline_s = time.monotonic() + length_s
        if deadline_s > lease.latest_s:
            left_s = max(0.0, lease.latest_s - time.monotonic())
            raise InvalidBody(
                f"lease: this lease can last at most {left_s:.3f} s more (Kestrel's openTransactionTimeout)"
            )
        lease.deadline_s = deadline_s
        lease.expires_at_s = time.time() + length_s
        self._schedule(lease)
        return lease

    def give_back(self, lease: Lease) -> None:
        """The answer that carried the lease met nobody: its job is on its way back to the head."""
        if lease.state is State.HELD:
            self._back(lease, State.RETURNED)

    def drop_queue(self, key: str) -> int:
        """Ends every lease on a queue that was just deleted; returns how many."""
        dropped = [lease for lease in self._open.values() if lease.key == key and lease.state is State.HELD]
        for lease in dropped:
            read = lease.read
            self._end(lease, State.DROPPED)
            if read is not None:
                read.give_back()
        return len(dropped)

    def on_end(self, listener: Callable[[Lease], None]) -> None:
        """`listener` is told of each lease that ends, in its final state. It must not raise."""
        self._listeners.append(listener)

    def close(self) -> None:
        """Gives back whatever is still held. Nothing may be opened afterwards."""
        if self._timer is not None:
            self._timer.cancel()
        for lease in [lease for lease in self._open.values() if lease.state is State.HELD]:
            read = lease.read
            self._end(lease, State.RETURNED)
            if read is not None:
                read.give_back()

    async def _settle(self, lease_id: str, wanted: State) -> Lease:
        lease = self.find(lease_id)
        mine = lease.state is State.HELD
        if mine:
            lease.move(State.SETTLING)
            lease.settlement = self._tasks.create_task(self._run(lease, wanted))
        refusal = None
        if lease.state is State.SETTLING and lease.settlement is not None:
            refusal = await asyncio.shield(lease.settlement)
        if lease.state is wanted:
            return lease
        if mine and refusal is not None:
            raise refusal
        if mine and lease.state is State.UNKNOWN:
            raise OutcomeUnknown("the settlement was sent to Kestrel and no answer came")
        raise _ended_error(lease, wanted)

    async def _run(self, lease: Lease, wanted: State) -> BackendRefused | None:
        """Settles and ends the lease; returns Kestrel's refusal, if that is how it ended."""
        read = lease.read
        assert read is not None
        outcome = State.UNKNOWN
        try:
            if wanted is State.ACKED:
                await read.confirm()
            else:
                await read.abort()
            outcome = wanted
        except LeaseLost:
            outcome = State.LOST
        except BackendRefused as refusal:
            outcome = State.LOST
            return BackendRefused(f"{refusal.detail}; the job is back on its queue")
        except OutcomeUnknown:
            pass
        except Exception:
            log.exception("settling a lease failed")
            read.give_back()
        finally:
            self._end(lease, outcome)
        return None

    def _lost(self, lease: Lease) -> None:
        if lease.state is State.HELD:
            self._end(lease, State.LOST)

    def _back(self, lease: Lease, outcome: State) -> None:
        read = lease.read
        self._end(lease, outcome)
        if read is not None:
            self._tasks.create_task(_abort(read))

    def _end(self, lease: Lease, outcome: State) -> None:
        lease.move(outcome)
        lease.read = None
        lease.settlement = None
        del self._open[lease.id]
        self._outcomes[outcome] += 1
        self._ended[lease.id] = (time.monotonic(), lease)
        self._forget()
        for listener in self._listeners:
            listener(lease)

    def _forget(self) -> None:
        oldest_s = time.monotonic() - self._memory_s
        while self._ended:
            ended_s, _ = next(iter(self._ended.values()))
            if ended_s > oldest_s and len(self._ended) <= self._memory_limit:
                return
            self._ended.popitem(last=False)

    def _schedule(self, lease: Lease) -> None:
        if len(self._heap) > 2 * len(self._open) + 1024:
            self._heap = [(each.deadline_s, next(self._order), each) for each in self._open.values()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (lease.deadline_s, next(self._order), lease))
        self._arm()

    def _arm(self) -> None:
        """Sets the timer to the earliest deadline; one that is set to an earlier instant stays."""
        if not self._heap:
            return
        due_s = self._heap[0][0]
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due_s - time.monotonic()), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now_s = time.monotonic()
        while self._heap and self._heap[0][0] <= now_s:
            due_s, _, lease = heapq.heappop(self._heap)
            if lease.state is State.HELD and lease.deadline_s <= due_s:
                self._back(lease, State.EXPIRED)
        self._arm()


def _ended_error(lease: Lease, wanted: State) -> Exception:
    return answer_of(lease.state, wanted) or LeaseForgotten("what became of the lease is not known")


async def _abort(read: OpenRead) -> None:
    try:
        await read.abort()
    except Exception:
        log.exception("giving a job back failed")
        read.give_back()
