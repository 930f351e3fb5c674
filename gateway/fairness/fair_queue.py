"""A queue in which tenants take turns, however many items each of them puts in. Pure.

Source: Nagle, "On packet switches with infinite storage" (RFC 970).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """First in, first out within a tenant, and the tenants in turns. It holds an item once."""

    __slots__ = ("_by_tenant", "_count")

    def __init__(self) -> None:
        self._by_tenant: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, tenant: str, item: T) -> None:
        """Adds the item behind the tenant's others. An item that is already in the queue keeps its place."""
        queue = self._by_tenant.get(tenant)
        if queue is None:
            queue = self._by_tenant[tenant] = OrderedDict()
        if item not in queue:
            queue[item] = None
            self._count += 1

    def remove(self, tenant: str, item: T) -> None:
        """Removes the item, if it is in the queue."""
        queue = self._by_tenant.get(tenant)
        if queue is not None and item in queue:
            del queue[item]
            self._count -= 1
            if not queue:
                del self._by_tenant[tenant]

    @property
    def tenants(self) -> Iterable[str]:
        """The tenants that have items in it, in the order of their turns."""
        return self._by_tenant

    def get(self) -> T:
        """Removes and returns the first item of the next tenant. Raises IndexError if the queue is empty."""
        item = self.next()
        if item is None:
            raise IndexError("the queue is empty")
        return item

    def next(self, may: Callable[[str], bool] | None = None) -> T | None:
        """Removes and returns the first item of the next tenant for which `may` is true; None if there is none.

        A tenant that is skipped keeps its place.
        """
        tenant = next(filter(may, self._by_tenant) if may else iter(self._by_tenant), None)
        if tenant is None:
            return None
        queue = self._by_tenant.pop(tenant)
        item, _ = queue.popitem(last=False)
        self._count -= 1
        if queue:
            self._by_tenant[tenant] = queue
        return item
