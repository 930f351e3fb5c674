"""The puts of one server, in batches: puts that come in the same turn of the event loop are sent together.

Under load one turn has many requests. One connection, one write and one read for all of them cost a third of what they
cost separately, and the server commits them together. A single put is sent alone.

A batch has at most BATCH_ITEMS puts and, unless it is one put, BATCH_BYTES. While the server stores UNDER_WAY batches
of a tenant, further puts are collected until one of them is answered, but at most for BATCH_WAIT_S: one batch is being
stored, one is ready behind it, and a third would only be smaller.

1. Puts of one tenant are sent in order; each has its own outcome. Tenants do not share batches and do not wait for each
   other's: a tenant with very many puts delays another one's by one batch.
2. When the connection breaks, a put that was certainly not sent is BackendUnavailable, any other OutcomeUnknown.
3. A server that refuses closes its connection. Puts that were sent after a refused one may be stored, by another commit
   than the one that failed. They were certainly refused only if the server's status was the reason, because the server
   checks that before every put.
4. A server that loses or changes empty items gets none; neither does one that has not yet told what it is.
Source of 3: kestrel-wire.md, "Names and errors": SERVER_ERROR [X]. Of 4: "Servers that imitate it", 0-byte item.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from pymemcache.exceptions import MemcacheError, MemcacheServerError

from gateway.errors import BackendUnavailable, GatewayError, JobTooLarge, NotSupported, OutcomeUnknown, QueueFull
from gateway.kestrel.address import Address
from gateway.kestrel.server.server import Server
from gateway.kestrel.wire.codec import BATCH_BYTES, BATCH_ITEMS, KestrelClient, Put
from gateway.kestrel.wire.connection import ConnectionLostError
from gateway.kestrel.wire.failures import not_asked, perhaps_done, says_too_large

STALLED_S = 0.25
"""A server whose answer is missing for this long is tried after the others (placement, rule 1)."""
UNDER_WAY = 2
BATCH_WAIT_S = 0.002
"""A batch that is ready waits at most this long for more puts, while the server stores another one."""
TenantOf: TypeAlias = Callable[[str], str]
_STATUSES = ("readonly", "read-only", "read only", "quiescent")


class Writer:
    """Stores items on one server. tenant_of: the tenant of a key. stored: called with key and server of a stored
    item."""

    def __init__(self, server: Server, tenant_of: TenantOf, stored: Callable[[str, Server], None]) -> None:
        self._stored = stored
        self._server = server
        self._tenant_of = tenant_of
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, _Lane] = {}
        self._leaving = False

    @property
    def server(self) -> Server:
        """The server of the writer."""
        return self._server

    @property
    def stalled(self) -> bool:
        """Whether an answer is missing for longer than a healthy server would take."""
        return any(lane.longest_s > STALLED_S for lane in self._lanes.values())

    def put(self, key: str, data: bytes, expiry: int) -> asyncio.Future[None]:
        """A future that is done when the item is stored.

        Its exception: QueueFull; BackendUnavailable if nothing was sent, BackendRefused if the server refused;
        NotSupported if it cannot store such an item; JobTooLarge; OutcomeUnknown. Cancelled: the item may be stored.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if self._leaving:
            future.set_exception(
                BackendUnavailable(f"{self._server.address.marked} was removed from the configuration")
            )
            return future
        if not data and (refusal := self._no_empty_items()) is not None:
            future.set_exception(refusal)
            return future
        tenant = self._tenant_of(key)
        lane = self._lanes.get(tenant)
        if lane is None:
            lane = self._lanes[tenant] = _Lane(self._server, self._loop, lambda: self._lanes.pop(tenant), self._stored)
        lane.add((key, data, expiry), future)
        return future

    def _no_empty_items(self) -> GatewayError | None:
        """Why the server gets no empty item; None if it may (rule 4)."""
        capabilities = self._server.capabilities
        if capabilities is None:
            return self._server.error
        if capabilities.empty_items:
            return None
        return NotSupported(
            f"an empty job is not stored: {capabilities.software} loses or changes it; send at least one byte"
        )

    async def close(self) -> None:
        """Accepts no more puts, and returns when each has its outcome."""
        self._leaving = True
        while self._lanes:
            await asyncio.gather(*(lane.next_answer() for lane in self._lanes.values()))


class _Lane:
    """The puts of one tenant on one server. on_empty: called when no put waits and every answer has come.

    stored: see Writer.
    """

    def __init__(
        self,
        server: Server,
        loop: asyncio.AbstractEventLoop,
        on_empty: Callable[[], object],
        stored: Callable[[str, Server], None],
    ) -> None:
        self._stored = stored
        self._server = server
        self._loop = loop
        self._on_empty = on_empty
        self._waiting: deque[tuple[Put, asyncio.Future[None]]] = deque()
        self._sending: dict[asyncio.Task[None], float] = {}
        self._gathered: asyncio.Handle | None = None

    @property
    def longest_s(self) -> float:
        """How long the oldest answer has been missing."""
        return next((self._loop.time() - began_s for began_s in self._sending.values()), 0.0)

    def add(self, put: Put, future: asyncio.Future[None]) -> None:
        """Adds the put to the tenant's next batch that has room for it."""
        self._waiting.append((put, future))
        self._gather()

    async def next_answer(self) -> None:
        """Returns when a batch in progress has its answer, or when one may have begun."""
        await asyncio.gather(*self._sending, return_exceptions=True)
        await asyncio.sleep(0)

    def _gather(self) -> None:
        if self._gathered is None:
            full = len(self._sending) >= UNDER_WAY
            self._gathered = (
                self._loop.call_later(BATCH_WAIT_S, self._flush) if full else self._loop.call_soon(self._flush)
            )

    def _flush(self) -> None:
        assert self._gathered is not None
        self._gathered.cancel()
        self._gathered = None
        task = self._loop.create_task(self._send(self._batch()))
        self._sending[task] = self._loop.time()
        task.add_done_callback(self._answered)
        if self._waiting:
            self._gather()

    def _batch(self) -> list[tuple[Put, asyncio.Future[None]]]:
        """The next batch: all waiting puts, up to the codec's limits."""
        batch: list[tuple[Put, asyncio.Future[None]]] = []
        size = 0
        while self._waiting and len(batch) < BATCH_ITEMS:
            size += len(self._waiting[0][0][1])
            if batch and size > BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _answered(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        if self._gathered is not None:
            self._flush()
        elif not self._sending:
            self._on_empty()

    async def _send(self, waiting: list[tuple[Put, asyncio.Future[None]]]) -> None:
        puts = [put for put, _ in waiting]
        outcomes: list[bool | MemcacheServerError] = []
        sent = [0]
        failure: BaseException | None = None
        try:
            await self._server.run(KestrelClient.store_many, puts, outcomes, sent)
        except (BackendUnavailable, ConnectionLostError, MemcacheError) as error:
            failure = error
        except asyncio.CancelledError as error:
            failure = error
            raise
        finally:
            for index, (put, future) in enumerate(waiting):
                if index < len(outcomes) and outcomes[index] is True:
                    self._stored(put[0], self._server)
                if future.done():
                    continue
                trouble = _trouble(self._server.address, index, outcomes, sent[0], failure)
                if trouble is None:
                    future.set_result(None)
                else:
                    trouble.__cause__ = failure
                    future.set_exception(trouble)
            if outcomes and isinstance(outcomes[-1], MemcacheServerError) and not says_too_large(outcomes[-1]):
                self._server.look()


def _trouble(
    address: Address,
    index: int,
    outcomes: Sequence[bool | MemcacheServerError],
    sent: int,
    failure: BaseException | None,
) -> GatewayError | None:
    """The error of the put at `index`; None if it is stored."""
    if index < len(outcomes):
        outcome = outcomes[index]
        if outcome is True:
            return None
        if outcome is False:
            return QueueFull("Kestrel did not store the job: the queue is full, or the job is too large for it")
        assert isinstance(outcome, MemcacheServerError)
        if says_too_large(outcome):
            return JobTooLarge("the job is above the largest item of its queue (max_item_bytes)")
        return not_asked(outcome, address)
    if failure is None:
        return OutcomeUnknown(f"the job was sent to {address.marked}, but no valid answer came")
    if index >= sent:
        return not_asked(failure, address)
    if outcomes and isinstance(outcomes[-1], MemcacheServerError) and _by_status(outcomes[-1]):
        return not_asked(outcomes[-1], address)
    if index == sent - 1:
        return perhaps_done(failure, address)
    return OutcomeUnknown(f"the job was sent to {address.marked}, but no valid answer came")


def _by_status(refusal: MemcacheServerError) -> bool:
    """Whether the server refused because of its status, not because of the item (rule 3)."""
    words = str(refusal.args[0] if refusal.args else "").lower()
    return any(status in words for status in _STATUSES)
