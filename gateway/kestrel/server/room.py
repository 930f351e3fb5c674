"""How many items one server may hold for this worker, and how many gets may be on it. Counts; sends nothing.

1. A server that holds as many items for a tenant as it may is `full` for that tenant: no item is taken for the tenant
   until there is room. A server that has refused an item because of its bytes is `full`, too, until an item is let go,
   for at most SHORT_S: items that were let go just before the refusal may have made room.
2. It has at most `max_gets` gets, for all queues together, plus at most one take per queue that has no free place
   (gateway.kestrel.polls.rules, rule 7). A queue's second get and all further ones use only one half of the tenant's
   places, so that many queues still have one each.
3. A caller that was refused by 1 or 2 is informed of room: `on_room` is called soon after there is some again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from gateway.common.counted import counted
from gateway.common.shares import Shares
from gateway.errors import TooManyLeases

SHORT_S: Final = 1.0


class ServerRoom:
    """The places of one server. share: of items and gets, for one tenant. on_room: see rule 3.

    items: those that the server holds for this worker. coming: those that takes without a place may bring.
    gets: its gets.
    """

    def __init__(self, max_items: int, max_gets: int, share: float, on_room: Callable[[], None]) -> None:
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._short: set[str] = set()  # tenants that were refused because of bytes
        self._full: set[str] = set()  # tenants that were full or refused, and have had no room since
        self._full_until: dict[str, float] = {}
        self._crowded: set[str] = set()
        self.items = Shares(max_items, share)
        self.coming = Shares(max_items, share)
        self.gets = Shares(max_gets, share)

    @property
    def full_for_any(self) -> bool:
        """Whether some tenant has reached its limit or was refused, and has not had room since."""
        return bool(self._full)

    def full(self, tenant: str) -> bool:
        """Whether the server may hold no further item for the tenant (rules 1 and 3)."""
        if self.item_room(tenant) > 0:
            return False
        self._full.add(tenant)
        return True

    def item_room(self, tenant: str) -> int:
        """How many more items it may hold for the tenant; negative if others have taken more in the meantime."""
        return 0 if tenant in self._short else self.items.room(tenant)

    def short(self, tenant: str) -> None:
        """The server has refused an item for the tenant because of its bytes (rule 1)."""
        if tenant not in self._short:
            self._short.add(tenant)
            self._full.add(tenant)
            self._loop.call_later(SHORT_S, self._long_enough)

    def _long_enough(self) -> None:
        self._short.clear()
        self._relieve()

    def refusal(self, tenant: str, server: str) -> TooManyLeases:
        """Why it may hold no further item for the tenant. server: how messages name it."""
        items = self.items
        if tenant in self._short:
            return TooManyLeases(
                f"the next job on {server} would exceed the tenant's share of the memory for leased jobs "
                "(--max-lease-bytes); settle some leases first"
            )
        if items.held >= items.limit:
            return TooManyLeases(
                f"{server} has reached its limit of {counted(items.limit, 'open lease')}; try again later"
            )
        held = items.of(tenant)
        return TooManyLeases(
            f"the tenant has {counted(held, 'open lease')} on {server}, its share of the limit of {items.limit}; "
            "settle some of them first"
        )

    def full_at(self, tenant: str) -> float:
        """The loop time until which it was full for the tenant last; infinite while it is full."""
        return math.inf if self.full(tenant) else self._full_until.get(tenant, -math.inf)

    def hold(self, tenant: str) -> None:
        """One more item is set aside."""
        self.items.take(tenant)
        if self.items.room(tenant) <= 0:
            self._full.add(tenant)

    def let_go(self, tenant: str) -> None:
        """One item less is set aside."""
        self.items.give_back(tenant)
        if self._full:
            self._short.clear()
            self._relieve()

    def _relieve(self) -> None:
        relieved = [each for each in self._full if self.item_room(each) > 0]
        self._full.difference_update(relieved)
        for each in relieved:
            self._full_until[each] = self._loop.time()
        if relieved:
            self._loop.call_soon(self._on_room)

    def get_room(self, tenant: str, others: int) -> int:
        """How many more gets a queue of the tenant may have if it has `others` now (rules 2 and 3)."""
        room = self.gets.room(tenant)
        if room <= 0:
            self._crowded.add(tenant)
            return 0
        shared = room - (room + self.gets.of(tenant)) // 2
        return max(shared, 0 if others else 1)

    def return_gets(self, tenant: str, count: int) -> None:
        """`count` gets less are on it."""
        if not count:
            return
        self.gets.give_back(tenant, count)
        if self._crowded:
            relieved = [each for each in self._crowded if self.gets.room(each) > 0]
            self._crowded.difference_update(relieved)
            if relieved:
                self._loop.call_soon(self._on_room)
