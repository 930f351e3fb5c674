"""Which server gets an item, and which one is tried next if it does not store it.

Owns one writer per server and the order in which they are tried. Does not know what an item is.

1. Servers are tried in random order: first those that are up, then those with an overdue answer or on which puts of
   the key wait, then those that are not up.
2. If it was certainly not stored, the next server is tried, within one deadline for all of them. Servers that are not
   up are not tried after a server that is full or whose outcome is unknown. A queue is full if every server that could
   be asked is full.
3. An item with an unknown outcome is tried elsewhere only if duplicates are allowed. It is the same item, with the same
   id. If no other server stores it either, its outcome stays unknown.
4. Items with an ordering key go to one member, whether it is up or not: rendezvous hashing of its address with the
   keys. A member that is added or removed moves only its own ordering keys. If keys may move, those of a member that is
   read-only or quiescent go to the others, as if it were removed. Source: Thaler and Ravishankar, "A name-based mapping
   scheme for rendezvous" (1996).
5. An item above the limit of all servers is not sent.
6. A full queue with fanout children has an unknown outcome, unless its server stores an item with all copies or not at
   all: Kestrel copies first, so the children may have the item. Source: kestrel-wire.md, "Set".
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from hashlib import blake2b
from typing import Final

from gateway.common.counted import counted
from gateway.errors import BackendUnavailable, GatewayError, JobTooLarge, NotSupported, OutcomeUnknown, QueueFull
from gateway.kestrel.address import Address
from gateway.kestrel.health import Health
from gateway.kestrel.link import Put, ServerLink
from gateway.kestrel.puts.batches import OnStored, Prepare, PutHold, TenantOf, Writer

_DRAINED: Final = frozenset({Health.READONLY, Health.QUIESCENT})
FRESH_S: Final = 0.25
"""How long it is remembered whether a full queue has children."""
_KEPT: Final = 1024


class Placement:
    """Stores items on the members. limit_s: for one item, over all servers that are tried.

    max_item_bytes: the largest item of the servers; 0: unknown. keys_move: see rule 4. tenant_of: the tenant of a
    key. prepare: prepares a server that was not connected, if there are several.
    """

    def __init__(
        self,
        limit_s: float,
        max_item_bytes: int = 0,
        *,
        keys_move: bool = False,
        tenant_of: TenantOf,
        stored: OnStored,
        prepare: Prepare,
    ) -> None:
        self._stored = stored
        self._prepare = prepare
        self._full: dict[tuple[str, ServerLink], tuple[float, bool]] = {}
        self._limit_s = limit_s
        self._max_item_bytes = max_item_bytes
        self._keys_move = keys_move
        self._tenant_of = tenant_of
        self._loop = asyncio.get_running_loop()
        self._writers: list[Writer] = []

    def set_servers(self, servers: Sequence[ServerLink]) -> list[Writer]:
        """Writes to these servers from now on; returns the writers of removed servers, to be closed."""
        known = {writer.server: writer for writer in self._writers}
        prepare = self._prepare if len(servers) > 1 else None
        self._writers = [
            known.pop(server) if server in known else Writer(server, self._tenant_of, self._stored, prepare)
            for server in servers
        ]
        return list(known.values())

    def server_changed(self, server: ServerLink) -> None:
        """The server answers again, or no longer."""
        writer = self._writer(server)
        if writer is None or len(self._writers) == 1:
            return
        if server.health.answers:
            writer.start_preparing()
        else:
            writer.lost(self._prepare)

    async def prepared(self) -> None:
        """Returns when no server is being prepared. Cancelled: preparations continue."""
        for writer in self._writers:
            await writer.prepared()

    def hold(self, server: ServerLink, key: str) -> PutHold:
        """A context within which no put of the key is on its way to the server; others wait or go elsewhere."""
        writer = self._writer(server)
        return nullcontext() if writer is None else writer.hold(key)

    async def put(self, key: str, data: bytes, expiry: int, ordering_key: str | None, duplicates_ok: bool) -> None:
        """Raises what Kestrel.put raises."""
        if (too_large := self._too_large(data)) is not None:
            raise too_large
        writers = self._order(key, ordering_key)
        if len(writers) == 1 and not duplicates_ok:
            try:
                await _put(writers[0], key, data, expiry)
            except QueueFull as error:
                raise await self._refused(key, writers[0], error) from error
            return
        failure: GatewayError | None = None
        deadline = self._loop.time() + self._limit_s
        for writer in _tries(writers, duplicates_ok):
            if not _goes_on(failure, duplicates_ok) or not _worth(writer, failure):
                break
            try:
                async with asyncio.timeout_at(deadline):
                    await _put(writer, key, data, expiry)
            except TimeoutError:
                failure = _both(failure, OutcomeUnknown("no server stored the job in time"))
                break
            except QueueFull as error:
                failure = _both(failure, await self._refused(key, writer, error))
            except (BackendUnavailable, JobTooLarge, NotSupported, OutcomeUnknown) as error:
                failure = _both(failure, error)
            else:
                return
        assert failure is not None
        raise failure

    async def put_many(
        self, key: str, items: Sequence[tuple[bytes, int]], ordering_key: str | None, duplicates_ok: bool
    ) -> list[GatewayError | None]:
        """One outcome per item, in order. Items that one server certainly did not store go to the next."""
        outcomes: list[GatewayError | None] = [self._too_large(data) for data, _ in items]
        left = [i for i, outcome in enumerate(outcomes) if outcome is None]
        first = True
        deadline = self._loop.time() + self._limit_s
        for writer in _tries(self._order(key, ordering_key), duplicates_ok):
            if not first:
                left = [i for i in left if _goes_on(outcomes[i], duplicates_ok) and _worth(writer, outcomes[i])]
                if self._loop.time() >= deadline:
                    break
            if not left:
                break
            stored = await _put_in_order(writer, key, [items[i] for i in left])
            full = next((each for each in stored if isinstance(each, QueueFull)), None)
            if full is not None:
                refused = await self._refused(key, writer, full)
                stored = [refused if isinstance(each, QueueFull) else each for each in stored]
            for i, outcome in zip(left, stored, strict=True):
                outcomes[i] = None if outcome is None else _both(outcomes[i], outcome)
            left = [i for i in left if outcomes[i] is not None]
            first = False
        return outcomes

    async def close(self) -> None:
        """Returns when every put has its outcome. The servers are closed before, so that none of them waits."""
        for writer in self._writers:
            await writer.close()

    def _too_large(self, data: bytes) -> JobTooLarge | None:
        """Why no server gets the item (rule 5)."""
        limit = self._max_item_bytes
        if not limit or len(data) <= limit:
            return None
        return JobTooLarge(
            f"the job with its attributes is an item of {counted(len(data), 'byte')}, which is above the "
            f"maximum of {limit} "
            "(--kestrel-max-item-bytes)"
        )

    def _order(self, key: str, ordering_key: str | None) -> list[Writer]:
        """The writers in the order in which they are tried."""
        writers = self._writers
        if not writers:
            raise BackendUnavailable("no Kestrel server is known yet")
        if len(writers) == 1:
            return writers
        if ordering_key is not None:
            if self._keys_move:
                writers = [each for each in writers if each.server.health.state not in _DRAINED] or writers
            return [max(writers, key=lambda writer: weight(writer.server.address, key, ordering_key))]
        order = random.sample(writers, len(writers))
        order.sort(
            key=lambda writer: 2 if writer.server.health.state is not Health.UP else writer.stalled or writer.holds(key)
        )
        return order

    def _writer(self, server: ServerLink) -> Writer | None:
        return next((writer for writer in self._writers if writer.server is server), None)

    async def _refused(self, key: str, writer: Writer, full: QueueFull) -> GatewayError:
        """The error for a queue that is full on the server (rule 6)."""
        at, server, now = (key, writer.server), writer.server, self._loop.time()
        asked_at, copies = self._full.get(at, (-math.inf, False))
        if now - asked_at > FRESH_S:
            try:
                stats = (await server.stats([key])).get(key)
            except BackendUnavailable:
                copies = True
            else:
                copies = stats is not None and bool(stats.children) and not stats.atomic
                if len(self._full) >= _KEPT:
                    self._full.clear()
                self._full[at] = (now, copies)
        if not copies:
            return full
        return OutcomeUnknown(
            "the queue is full, but its subscriptions may have the job, because Kestrel copies it to them first; if it "
            "is sent again, it is copied again"
        )


def weight(address: Address, key: str, ordering_key: str) -> bytes:
    """The weight of a member for a queue's ordering key; the heaviest member has the key."""
    return blake2b(f"{address}\0{key}\0{ordering_key}".encode(), digest_size=16).digest()


async def _put(writer: Writer, key: str, data: bytes, expiry: int) -> None:
    """Raises the outcome, unless the item is stored."""
    error = writer.no_empty_items() if not data else None
    if error is None:
        (error,) = await writer.put(((key, data, expiry),))
    if error is not None:
        raise error


async def _put_in_order(writer: Writer, key: str, items: Sequence[tuple[bytes, int]]) -> list[GatewayError | None]:
    """One outcome per item. A batch is sent when the one before it is answered: two at a time could overtake each
    other.

    Items after a batch whose connection ended are not sent.
    """
    outcomes: list[GatewayError | None] = []
    no_empty = writer.no_empty_items()
    while len(outcomes) < len(items):
        puts: list[Put] = []
        size = 0
        for data, expiry in items[len(outcomes) : len(outcomes) + writer.server.batch_items]:
            size += len(data)
            if (puts and size > writer.server.batch_bytes) or (no_empty is not None and not data):
                break
            puts.append((key, data, expiry))
        outcomes += await writer.put(puts) if puts else [no_empty]
        ended = next((each for each in outcomes if isinstance(each, (BackendUnavailable, OutcomeUnknown))), None)
        if ended is not None:
            rest = len(items) - len(outcomes)
            outcomes += [
                BackendUnavailable(f"not sent, because an earlier job failed: {ended.detail}") for _ in range(rest)
            ]
    return outcomes


def _tries(writers: Sequence[Writer], duplicates_ok: bool) -> Iterator[Writer]:
    """Each writer once; a single one twice if duplicates are allowed, for items that it may not have stored."""
    yield from writers
    if duplicates_ok and len(writers) == 1:
        yield writers[0]


def _goes_on(failure: GatewayError | None, duplicates_ok: bool) -> bool:
    """Whether another server may be tried after `failure` (rules 2 and 3)."""
    return duplicates_ok or not isinstance(failure, OutcomeUnknown)


def _worth(writer: Writer, failure: GatewayError | None) -> bool:
    """Whether the server is worth a try after `failure` (rule 2)."""
    return writer.server.health.state is Health.UP or not isinstance(failure, (QueueFull, OutcomeUnknown))


def _both(one: GatewayError | None, other: GatewayError) -> GatewayError:
    """The error for an item that two servers did not store: the less certain one, then one that is not "full".

    An error that a server cannot store such an item is used only if the other server cannot either.
    """
    if one is None or isinstance(one, (JobTooLarge, NotSupported)):
        return other
    if isinstance(other, (JobTooLarge, NotSupported)):
        return one
    for kind in (OutcomeUnknown, BackendUnavailable):
        for each in (other, one):
            if isinstance(each, kind):
                return each
    return other
