"""The puts of one server, in batches: puts that come in the same turn of the event loop are sent together.

Under load one turn has many requests. One connection, one write and one read for all of them cost a third of what they
cost separately, and the server commits them together. A single put is sent alone.

A batch has at most the link's `batch_items` puts and, unless it is one put, `batch_bytes`. While the server stores
UNDER_WAY batches of a tenant, further puts are collected until one of them is answered, but at most for BATCH_WAIT_S:
one batch is being stored, one is ready behind it, and a third would only be smaller.

1. Puts of one tenant are sent in order; each has its own outcome. Tenants do not share batches and do not wait for each
   other's: a tenant with very many puts delays another tenant's puts by at most one batch.
2. A server that loses or changes empty items gets none; neither does one that has not yet been identified.
3. A server that was not connected must be prepared before it gets puts. Puts to it, and puts of a key that is held,
   wait and keep their order.
Source of 2: kestrel-wire.md, "Servers that imitate it", 0-byte item.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeAlias

from gateway.errors import BackendUnavailable, GatewayError, NotSupported, OutcomeUnknown
from gateway.kestrel.link import Put, ServerLink

log = logging.getLogger(__name__)

STALLED_S = 0.25
"""A server whose answer is missing for this long is tried after the others (placement, rule 1)."""
UNDER_WAY = 2
BATCH_WAIT_S = 0.002
"""A batch that is ready waits at most this long for more puts, while the server stores another one."""
TenantOf: TypeAlias = Callable[[str], str]
Prepare: TypeAlias = Callable[[ServerLink], Awaitable[None]]
"""Prepares a server for puts. Raises BackendUnavailable, OutcomeUnknown."""
PutHold: TypeAlias = AbstractAsyncContextManager[None]
OnStored: TypeAlias = Callable[[str, ServerLink, int], None]
"""Called with a key, the server, and how many items were stored."""


class Writer:
    """Stores items on one server. tenant_of: the tenant of a key. prepare: see rule 3; None if the server needs no
    preparation."""

    def __init__(
        self,
        server: ServerLink,
        tenant_of: TenantOf,
        stored: OnStored,
        prepare: Prepare | None = None,
    ) -> None:
        self._prepare = prepare
        self._ready = prepare is None
        self._losses = 0
        self._preparing: asyncio.Task[None] | None = None
        self._held: Counter[str] = Counter()
        self._waiting: list[_Group] = []
        self._stored = stored
        self._server = server
        self._tenant_of = tenant_of
        self._loop = asyncio.get_running_loop()
        self._by_tenant: dict[str, _TenantPuts] = {}
        self._leaving = False

    @property
    def server(self) -> ServerLink:
        """The server of the writer."""
        return self._server

    @property
    def stalled(self) -> bool:
        """Whether an answer is missing for longer than a healthy server would take."""
        return any(of_tenant.longest_s > STALLED_S for of_tenant in self._by_tenant.values())

    def put(self, puts: Sequence[Put]) -> asyncio.Future[list[GatewayError | None]]:
        """The outcome of each put when all are known: None if it is stored.

        puts: of one key, at most a batch. Otherwise: QueueFull; BackendUnavailable if nothing was sent, BackendRefused
        if the server refused; JobTooLarge; OutcomeUnknown. Cancelled: the items may be stored.
        """
        group = _Group(puts, self._loop.create_future())
        if self._leaving:
            group.fail(BackendUnavailable(f"{self._server.address.marked} was removed from the configuration"))
        elif self.holds(puts[0][0]):
            self._waiting.append(group)
            self.start_preparing()
        else:
            self._add(group)
        return group.future

    def no_empty_items(self) -> GatewayError | None:
        """Why the server gets no empty item; None if it may (rule 2)."""
        capabilities = self._server.health.capabilities
        if capabilities is None:
            return self._server.health.error
        if capabilities.empty_items:
            return None
        return NotSupported(
            f"an empty job is not stored: {capabilities.software} loses or changes it; send at least one byte"
        )

    # Preparation and holds (rule 3)

    def holds(self, key: str) -> bool:
        """Whether a put of the key would wait."""
        return not self._ready or key in self._held

    def lost(self, prepare: Prepare) -> None:
        """The server is not connected: it must be prepared again."""
        self._prepare = prepare
        self._losses += 1
        self._ready = False

    def start_preparing(self) -> None:
        """Prepares the server in the background, if that is needed."""
        if not self._ready and self._preparing is None and not self._leaving:
            self._preparing = self._loop.create_task(self._prepare_now(), name=f"preparing {self._server.address}")

    async def prepared(self) -> None:
        """Returns when the server is not being prepared, well or not. Cancelled: the preparation continues."""
        if self._preparing is not None:
            await asyncio.wait([self._preparing])

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Within the context no put of the key is on its way to the server."""
        self._held[key] += 1
        try:
            of_tenant = self._by_tenant.get(self._tenant_of(key))
            if of_tenant is not None:
                await of_tenant.settled(key)
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
                self._release()

    async def _prepare_now(self) -> None:
        try:
            while not self._ready:
                losses = self._losses
                assert self._prepare is not None
                await self._prepare(self._server)
                self._ready = losses == self._losses
            self._release()
        except (BackendUnavailable, OutcomeUnknown) as error:
            self._fail(error)
        except Exception:
            log.exception("creating the subscriptions on a server failed")
            self._fail(
                BackendUnavailable(f"{self._server.address.marked} does not have all subscriptions of the queues yet")
            )
        finally:
            self._preparing = None

    def _fail(self, error: GatewayError) -> None:
        waiting, self._waiting = self._waiting, []
        failure = type(error) if isinstance(error, BackendUnavailable) else BackendUnavailable
        for group in waiting:
            group.fail(failure(error.detail))

    def _release(self) -> None:
        """Sends the puts that need not wait any longer, except those whose caller has given up."""
        waiting, self._waiting = self._waiting, []
        for group in waiting:
            if self.holds(group.key):
                self._waiting.append(group)
            elif not group.future.done():
                self._add(group)

    def _add(self, group: _Group) -> None:
        tenant = self._tenant_of(group.key)
        of_tenant = self._by_tenant.get(tenant)
        if of_tenant is None:
            of_tenant = self._by_tenant[tenant] = _TenantPuts(
                self._server, self._loop, lambda: self._by_tenant.pop(tenant), self._stored
            )
        of_tenant.add(group)

    async def close(self) -> None:
        """Accepts no more puts, and returns when each has its outcome."""
        self._leaving = True
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)
        self._fail(BackendUnavailable(f"{self._server.address.marked} is no longer used"))
        while self._by_tenant:
            await asyncio.gather(*(of_tenant.next_answer() for of_tenant in self._by_tenant.values()))


class _Group:
    """Puts of one caller, which are sent together. start: the place of the first in its batch. left: how many have no
    outcome."""

    __slots__ = ("future", "left", "outcomes", "puts", "start")

    def __init__(self, puts: Sequence[Put], future: asyncio.Future[list[GatewayError | None]]) -> None:
        self.puts = puts
        self.future = future
        self.outcomes: list[GatewayError | None] = [None] * len(puts)
        self.left = len(puts)
        self.start = 0

    @property
    def key(self) -> str:
        return self.puts[0][0]

    def fail(self, error: GatewayError) -> None:
        """None of the puts was sent, for this reason."""
        if not self.future.done():
            self.future.set_result([error] * len(self.puts))

    def reported(self, place: int, error: GatewayError | None) -> bool:
        """The outcome of the put at that place of the batch. Returns whether it was the last one."""
        self.left -= 1
        if error is not None:
            self.outcomes[place - self.start] = error
        if self.left:
            return False
        if not self.future.done():
            self.future.set_result(self.outcomes)
        return True


class _Batch:
    """Puts that were sent together. groups: of each put. left: how many puts have no outcome."""

    __slots__ = ("began_s", "groups", "left", "puts")

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.puts: list[Put] = []
        self.groups: list[_Group] = []
        self.left = 0

    def add(self, group: _Group) -> None:
        count = len(group.puts)
        group.start = self.left
        self.puts += group.puts
        self.groups += [group] * count
        self.left += count


class _TenantPuts:
    """The puts of one tenant on one server. on_empty: called when no put waits and every answer has come."""

    def __init__(
        self,
        server: ServerLink,
        loop: asyncio.AbstractEventLoop,
        on_empty: Callable[[], object],
        stored: OnStored,
    ) -> None:
        self._stored = stored
        self._server = server
        self._loop = loop
        self._on_empty = on_empty
        self._waiting: deque[_Group] = deque()
        self._sending: dict[_Batch, None] = {}
        self._gathered: asyncio.Handle | None = None
        self._awaited: list[asyncio.Future[None]] = []

    @property
    def longest_s(self) -> float:
        """How long the oldest answer has been missing."""
        return next((self._loop.time() - batch.began_s for batch in self._sending), 0.0)

    def add(self, group: _Group) -> None:
        """Adds the puts to the tenant's next batch that has room for them."""
        self._waiting.append(group)
        self._gather()

    async def next_answer(self) -> None:
        """Returns when a batch in progress has its answer, or when one may have begun."""
        answer = self._loop.create_future()
        if self._sending:
            self._awaited.append(answer)
        else:
            self._loop.call_soon(_resolve, answer)
        await answer

    async def settled(self, key: str) -> None:
        """Returns when every put of the key that was added has its answer. Cancelled: the puts continue."""
        while any(group.key == key for group in self._waiting):
            await self.next_answer()
        sent = list(self._sending)
        while any(batch in self._sending for batch in sent):
            await self.next_answer()

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
        batch = self._batch()
        self._sending[batch] = None
        self._server.start_store(batch.puts, partial(self._reported, batch))
        if self._waiting:
            self._gather()

    def _batch(self) -> _Batch:
        """The next batch: all waiting puts, up to the limits of the link."""
        batch, server, waiting = _Batch(self._loop.time()), self._server, self._waiting
        size = 0
        while waiting:
            puts = waiting[0].puts
            size += sum(len(data) for _, data, _ in puts)
            if batch.left and (batch.left + len(puts) > server.batch_items or size > server.batch_bytes):
                break
            batch.add(waiting.popleft())
        return batch

    def _reported(self, batch: _Batch, places: Sequence[int], outcomes: Sequence[GatewayError | None]) -> None:
        """Outcomes of some puts."""
        groups = batch.groups
        for place, error in zip(places, outcomes, strict=True):
            group = groups[place]
            if group.reported(place, error) and (stored := group.outcomes.count(None)):
                self._stored(group.key, self._server, stored)
        batch.left -= len(places)
        if not batch.left:
            self._answered(batch)

    def _answered(self, batch: _Batch) -> None:
        del self._sending[batch]
        awaited, self._awaited = self._awaited, []
        for answer in awaited:
            _resolve(answer)
        if self._gathered is not None:
            self._flush()
        elif not (self._sending or self._waiting):
            self._on_empty()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
