"""Several items of one queue that are set aside on one connection of a memcache server: the reads of a batch.

1. The server settles the reads of a connection only in the order in which they were opened. So each read is decided, in
   any order, and what is decided up to the first read that is not is sent together: `confirm n` for a run of them, and
   `abort` for one that goes back. Source: kestrel-wire.md, "Reliable reads".
2. A read whose turn has come is the oldest one that is not decided.
3. At the end of the connection every read without an answer is back on its queue, or its outcome is unknown if its
   command was sent.
4. An ERROR after fewer reads than were asked for means that the server allows only that many. The limit is remembered,
   and the items are back on their queue, because the connection has ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from itertools import takewhile
from typing import Any, Final, TypeAlias

from pymemcache.exceptions import MemcacheError, MemcacheUnknownCommandError

from gateway.errors import GatewayError, LeaseLost, QueueDeleted
from gateway.kestrel.counters import Counters
from gateway.kestrel.server.read_of_server import ReadOfServer, ReadState
from gateway.kestrel.server.server import Server
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import Connection, ConnectionLostError, ConnectionState
from gateway.kestrel.wire.failures import LOST, not_confirmed
from gateway.kestrel.wire.stats import parse_open_reads

MOST_AT_ONCE: Final = 32
"""Reads that one step opens: their items may be large, and cannot be given back singly."""
OnSettled: TypeAlias = Callable[[GatewayError | None], None]


class Decision(Enum):
    """How a read is to end."""

    CONFIRM = "confirm"
    ABORT = "abort"


class SharedRead(ReadOfServer):
    """One of the items. Implements gateway.kestrel.link.TakenItem."""

    __slots__ = ("_reads", "_then", "decision")
    keeps_order = False
    deleted = False

    def __init__(self, server: Server, counters: Counters, reads: SharedReads, data: bytes, number: int) -> None:
        super().__init__(server, counters, reads.key, reads.tenant, data, number)
        self.decision: Decision | None = None
        self._reads = reads
        self._then: OnSettled = _ignore

    async def first_of_batch(self) -> SharedRead:
        """Itself."""
        return self

    async def more(self, count: int, limit_bytes: int) -> Sequence[SharedRead]:
        """See gateway.leases.lease.OpenRead. In growing steps; fewer than `count` are no sign of an empty queue."""
        return await self._reads.more(count, limit_bytes)

    async def turn(self) -> None:
        """See OpenRead.turn."""
        if self._state is ReadState.HELD:
            await self._reads.turn(self)

    async def verify(self) -> None:
        """Returns if the item is still set aside: its connection has answered just now. Raises LeaseLost."""
        await self._reads.ask(KestrelClient.ask_version)

    async def check(self) -> bool:
        """See PinnedRead.check. Reads of one connection share the question."""
        return await self._reads.check()

    async def confirm(self) -> None:
        """See PinnedRead.confirm. Waits until the reads before it are decided."""
        answered: asyncio.Future[GatewayError | None] = self._reads.loop.create_future()
        if not self.start_confirm(partial(_resolve, answered)):
            raise LeaseLost(LOST)
        if (error := await answered) is not None:
            raise error

    def start_confirm(self, then: OnSettled) -> bool:
        """See OpenRead.start_confirm."""
        return self._decide(Decision.CONFIRM, then)

    async def abort(self) -> None:
        """Puts the item back to the head of its queue when the reads before it are decided. Never raises."""
        await self.abort_all((self,))

    async def abort_all(self, reads: Sequence[SharedRead], /) -> None:
        """The server puts the items back in the order of taking, each to the head. Never raises."""
        answers: list[asyncio.Future[GatewayError | None]] = []
        for read in reads:
            answered: asyncio.Future[GatewayError | None] = read._reads.loop.create_future()  # noqa: SLF001
            if read._decide(Decision.ABORT, partial(_resolve, answered)):  # noqa: SLF001
                answers.append(answered)
        for answered in answers:
            await answered

    def start_abort(self, then: Callable[[bool], None]) -> None:
        """Starts putting the item back; calls `then` with whether the server answered."""
        if not self._decide(Decision.ABORT, lambda error: then(error is None)):
            then(False)

    def give_back(self) -> None:
        """Returns at once; the item goes back in its turn. Does nothing if it is decided or lost."""
        self._decide(Decision.ABORT, _ignore)

    def over(self, error: GatewayError | None) -> None:
        """It is settled, or its settlement has failed."""
        self._settled()
        self._then(error)

    def _decide(self, decision: Decision, then: OnSettled) -> bool:
        if self._state is not ReadState.HELD:
            return False
        self._move(ReadState.SETTLING)
        self.decision = decision
        self._then = then
        self._reads.schedule()
        return True


class SharedReads:
    """The reads of one connection, which is pinned until all are settled."""

    def __init__(self, server: Server, connection: Connection, counters: Counters, key: str, tenant: str) -> None:
        self.key = key
        self.tenant = tenant
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._connection = connection
        self._counters = counters
        self._reads: deque[SharedRead] = deque()  # those that are not settled, the oldest first
        self._largest = 1  # bytes, of an item
        self._under_way: Sequence[SharedRead] = ()
        self._scheduled = False
        self._turns: dict[SharedRead, list[asyncio.Future[None]]] = {}
        self._asking = asyncio.Lock()
        self._check: asyncio.Task[bool] | None = None
        self._calm: asyncio.Task[None] | None = None

    def take_over(self, data: bytes, number: int, callbacks: Sequence[Callable[[], None]]) -> SharedRead:
        """The first item, whose connection is pinned and not in use; `callbacks` are called if it is lost."""
        self._connection.unpin()
        self._connection.pin(self._connection_closed)
        first = self._add(data, number)
        for callback in callbacks:
            first.on_lost(callback)
        return first

    async def more(self, count: int, limit_bytes: int) -> list[SharedRead]:
        """See SharedRead.more. Cancelled: the connection is closed."""
        room = self._server.room.items.room(self.tenant)
        held = len(self._reads)
        count = min(count, held, MOST_AT_ONCE, room, self._server.open_reads - held)
        count = min(count, max(1, limit_bytes // self._largest))
        if count <= 0:
            return []
        items: list[bytes] = []
        try:
            await self.ask(KestrelClient.take_many, self.key, count, items)
        except LeaseLost as lost:
            if isinstance(lost.__cause__, MemcacheUnknownCommandError):
                self._server.open_reads = max(1, held + len(items))
            return []
        found = []
        for data in items:
            self._counters.items_taken += 1
            self._server.room.hold(self.tenant)
            found.append(self._add(data, self._counters.items_taken))
        return found

    async def ask(self, command: Any, *args: Any) -> Any:
        """The server's answer on the connection. Raises LeaseLost. Cancelled: the connection is closed."""
        async with self._asking:
            await self._connection.calm()
            if self._connection.state is not ConnectionState.PINNED:
                raise LeaseLost(LOST)
            try:
                value = await self._connection.call(self._server.timeout_s, command, *args)
            except (ConnectionLostError, MemcacheError) as error:
                raise LeaseLost(LOST) from error
            self.schedule()
            return value

    async def check(self) -> bool:
        """Whether the items may still be set aside. Raises: QueueDeleted, and the connection is closed; LeaseLost."""
        if self._check is None or self._check.done():
            self._check = self.loop.create_task(self._still_open())
        return await asyncio.shield(self._check)

    async def _still_open(self) -> bool:
        counts = parse_open_reads(await self.ask(KestrelClient.dump_stats, self.key), self.key)
        if counts is None or counts.open_reads:
            return True
        if counts.given_back:
            return False
        self._connection.close(ConnectionLostError("the queue was deleted", ours=True))
        raise QueueDeleted

    async def turn(self, read: SharedRead) -> None:
        """See rule 2; also returns at the end of the connection."""
        future = self.loop.create_future()
        self._turns.setdefault(read, []).append(future)
        self.schedule()
        await future

    def schedule(self) -> None:
        """Something is decided: it is sent after this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._send)

    def _add(self, data: bytes, number: int) -> SharedRead:
        read = SharedRead(self._server, self._counters, self, data, number)
        self._largest = max(self._largest, len(data))
        self._reads.append(read)
        return read

    def _send(self) -> None:
        """Sends what is decided (rule 1); when nothing is left, the connection is free."""
        self._scheduled = False
        if self._under_way or self._connection.state is ConnectionState.CLOSED:
            return
        if self._connection.state is not ConnectionState.PINNED:
            if self._calm is None or self._calm.done():
                self._calm = self.loop.create_task(self._when_calm())
            return
        ready = list(takewhile(lambda read: read.decision is not None, self._reads))
        if ready:
            self._under_way = ready
            settled: list[int] = []
            then = partial(self._sent, settled)
            timeout_s = self._server.timeout_s
            self._connection.start(then, timeout_s, KestrelClient.settle_oldest, self.key, _runs(ready), settled)
        elif self._reads:
            self._wake(self._reads[0])
        elif not self._asking.locked():
            self._connection.disown()
            self._connection.unpin()
            self._server.commands.release(self._connection)

    async def _when_calm(self) -> None:
        await self._connection.calm()
        self.schedule()

    def _sent(self, settled: Sequence[int], _value: Any, error: BaseException | None) -> None:
        """The answers to the reads under way. settled: of how many, for each command that was answered."""
        ready, self._under_way = self._under_way, ()
        count = sum(settled)
        for number, read in enumerate(ready):
            self._reads.remove(read) if error is not None else self._reads.popleft()
            read.over(None if number < count or error is None else not_confirmed(error, self._server.address))
        if error is None:
            self.schedule()

    def _connection_closed(self) -> None:
        """Rule 3. The reads under way get their answer by `_sent`."""
        left = [read for read in self._reads if read not in self._under_way]
        self._reads = deque(self._under_way)
        for read in left:
            self._wake(read)
            if read.decision is None:
                read.lose()
            else:
                read.over(LeaseLost(LOST))

    def _wake(self, read: SharedRead) -> None:
        for future in self._turns.pop(read, ()):
            if not future.done():
                future.set_result(None)


def _runs(reads: Sequence[SharedRead]) -> list[int]:
    """What to send for them: n for `confirm n`, 0 for an abort."""
    runs: list[int] = []
    for read in reads:
        if read.decision is Decision.ABORT:
            runs.append(0)
        elif runs and runs[-1]:
            runs[-1] += 1
        else:
            runs.append(1)
    return runs


def _resolve(answered: asyncio.Future[GatewayError | None], error: GatewayError | None) -> None:
    if not answered.done():
        answered.set_result(error)


def _ignore(_error: GatewayError | None) -> None:
    """The item is back, or back with the connection."""
