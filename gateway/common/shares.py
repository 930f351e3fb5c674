"""How much of a limited resource each tenant holds, and how much more it may take. Pure.

A tenant may hold up to a share of what the other tenants leave. With a share of one half, a single tenant holds at most
half of the limit, and the next one at most half of the rest. So a new tenant finds room unless many tenants have each
taken their whole share: with a share of one half, 4 tenants can use up a limit of 10, and 14 a limit of 10,000. Nothing
has to be taken back from another tenant.
Source: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches" (1998).

Without tenants all callers count as one, whose share is the whole limit.
"""

from __future__ import annotations

import math

WHOLE = 1.0


class Shares:
    """Counts what tenants hold of one resource. share: above 0, at most WHOLE.

    held: by all tenants together. refused: how often a tenant asked for more than it may take.
    """

    __slots__ = ("_by_tenant", "_share", "held", "limit", "refused")

    def __init__(self, limit: int, share: float = WHOLE) -> None:
        self.limit = limit
        self.held = 0
        self.refused = 0
        self._share = share
        self._by_tenant: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Shares {self.held} of {self.limit}, by {len(self._by_tenant)} tenants>"

    def of(self, tenant: str) -> int:
        """How much the tenant holds."""
        return self._by_tenant.get(tenant, 0)

    @property
    def largest(self) -> int:
        """How much the tenant with the most holds."""
        return max(self._by_tenant.values(), default=0)

    def allowance(self, tenant: str) -> int:
        """How much the tenant may hold now, including what it holds already."""
        left = self.limit - self.held + self._by_tenant.get(tenant, 0)
        return left if self._share == WHOLE else math.ceil(left * self._share)

    def room(self, tenant: str) -> int:
        """How much more the tenant may take; negative if the other tenants have taken more in the meantime."""
        if self._share == WHOLE:
            return self.limit - self.held
        return self.allowance(tenant) - self._by_tenant.get(tenant, 0)

    def admits(self, tenant: str, amount: int = 1) -> bool:
        """Whether the tenant may take `amount` more. Counts a refusal."""
        if amount <= (self.limit - self.held if self._share == WHOLE else self.room(tenant)):
            return True
        self.refused += 1
        return False

    def admits_item(self, tenant: str, size: int) -> bool:
        """Like `admits`, but one item of any size has room if the tenant holds nothing and the limit is not reached.

        Otherwise an item above the tenant's share could never be delivered.
        """
        if not self._by_tenant.get(tenant) and self.held < self.limit:
            return True
        return self.admits(tenant, size)

    def try_take(self, tenant: str, amount: int = 1) -> bool:
        """Takes `amount` more if the tenant may. Returns whether it may."""
        if amount > (self.limit - self.held if self._share == WHOLE else self.room(tenant)):
            self.refused += 1
            return False
        self.held += amount
        self._by_tenant[tenant] = self._by_tenant.get(tenant, 0) + amount
        return True

    def take(self, tenant: str, amount: int = 1) -> None:
        """The tenant takes `amount` more. Does not check its share."""
        self.held += amount
        self._by_tenant[tenant] = self._by_tenant.get(tenant, 0) + amount

    def give_back(self, tenant: str, amount: int = 1) -> None:
        """The tenant gives back `amount`."""
        left = self._by_tenant.get(tenant, 0) - amount
        self.held -= amount
        if left:
            self._by_tenant[tenant] = left
        else:
            self._by_tenant.pop(tenant, None)
