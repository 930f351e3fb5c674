"""The control queue of one member: one item, which holds the whole control state. Knows no kinds of entries.

1. A change is put at the tail first. Then all items are taken and merged. An item is removed only when one that
   replaces it is stored (ControlItem.replaces). So the queue never loses an entry, whoever writes at the same time and
   wherever a writer is killed.
2. A writer that finds entries that its own item lacks writes another item with both. It goes on until its item is the
   only one: another writer may have had an item set aside.
3. Readers peek at the head. It lacks a change until the writer of that change has removed the older item. If the
   writer is killed before that, `settle` removes the older item.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from typing import Final

from gateway.delivery.backend import BackendMember
from gateway.delivery.control.state import ControlItem, ControlState, unpack
from gateway.errors import GatewayError
from gateway.leases.lease import OpenRead

ROUNDS: Final = 20
ROUND_S: Final = 0.02
"""Writers that meet on a queue try again after up to this long, times the number of the round."""
MOST_TAKEN: Final = 32


class ControlQueue:
    """The control queue of `member`. key: its Kestrel key."""

    def __init__(self, member: BackendMember, key: str) -> None:
        self._member = member
        self._key = key
        self._writing = asyncio.Lock()
        self._read: tuple[bytes, ControlItem] = (b"", unpack(b""))

    async def read(self) -> ControlItem | None:
        """The item at the head; None if there is none now. Raises BackendUnavailable."""
        data = await self._member.peek(self._key)
        if data is None:
            return None
        if data != self._read[0]:
            self._read = data, unpack(data)
        return self._read[1]

    async def count(self) -> int:
        """The number of items, with those that are set aside. Raises BackendUnavailable."""
        stats = await self._member.stats(self._key)
        return 0 if stats is None else stats.items + stats.open_reads

    async def write(self, state: ControlState) -> ControlState:
        """Stores the state, merged with the one that is stored. Returns every entry that was found on the way.

        Prunes `state`. Raises as BackendMember.put; then the state may be stored. Cancelled: it may be stored, too.
        """
        async with self._writing:
            state.prune(now_ms())
            item = _new(state)
            await self._member.put(self._key, item.pack())
            try:
                return await self._settle(item)
            except GatewayError:  # it is stored; the older item is removed later
                return state

    async def settle(self) -> ControlState:
        """Leaves one item on the queue, with the entries of all. Returns them. Raises as `write`."""
        async with self._writing:
            return await self._settle(None)

    async def _settle(self, own: ControlItem | None) -> ControlState:
        """own: the item that this process has just stored."""
        found = own.state.copy() if own is not None else ControlState()
        for round_ in range(ROUNDS):
            held: list[tuple[ControlItem, OpenRead]] = []
            try:
                await self._take(held)
                for item, _ in held:
                    found.merge(item.state)
                found.prune(now_ms())
                best = _best([*([own] if own is not None else []), *(item for item, _ in held)])
                if best is None:
                    return found
                seen = any(item.id == best.id for item, _ in held)
                if not best.state.covers(found):
                    best = own = _new(found.copy())
                    seen = False
                    await self._member.put(self._key, best.pack())
                for item, read in held:
                    if best.replaces(item):
                        await read.confirm()
                for _, read in reversed(held):
                    await read.abort()  # does nothing to those that were confirmed
            except BaseException:
                for _, read in reversed(held):
                    read.give_back()
                raise
            if seen and await self.count() <= 1:
                return found
            await asyncio.sleep(random.uniform(0, ROUND_S * (round_ + 1)))  # noqa: S311 (no secret)
        return found

    async def _take(self, held: list[tuple[ControlItem, OpenRead]]) -> None:
        """Takes all items that are not set aside."""
        while len(held) < MOST_TAKEN and (read := await self._member.take(self._key)) is not None:
            item = unpack(read.data)
            item.state.prune(now_ms())
            held.append((item, read))


def _new(state: ControlState) -> ControlItem:
    return ControlItem(secrets.token_hex(8), state)


def now_ms() -> int:
    """The wall time."""
    return int(time.time() * 1000)


def _best(items: Sequence[ControlItem]) -> ControlItem | None:
    """The item that no other one replaces; one of them if there are several."""
    best = None
    for item in items:
        if best is None or item.replaces(best):
            best = item
    return best
