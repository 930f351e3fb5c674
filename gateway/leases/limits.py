"""How many leases may be open, in total and per tenant, and how many bytes their items may have. Ends no lease."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Protocol

from gateway.common.counted import counted
from gateway.common.shares import WHOLE, Shares
from gateway.errors import TooManyLeases
from gateway.leases.deadlines import Deadlines
from gateway.leases.lease import Lease

LONGEST_RETRY_S = 30.0
"""A lease may last for hours, but most are settled long before that."""
LOOK_EVERY_S = 1.0
"""The open leases are searched for a tenant's first end at most once in this time."""


class LeaseRoom(Protocol):
    """Where a further lease counts."""

    def check_room(self, tenant: str, size: int = 0) -> None:
        """See LeaseLimits.check_room."""


class LeaseLimits:
    """Refuses a lease above a limit, with the time until one ends. KnownLeases counts in `shares` and `bytes`.

    limit, tenant_limit: open leases at a time. limit_bytes: size of their items together. share: the part of limit and
    limit_bytes that one tenant may take. leases: the open ones, by id.
    """

    def __init__(
        self,
        leases: Mapping[str, Lease],
        deadlines: Deadlines,
        *,
        limit: int,
        tenant_limit: int,
        limit_bytes: int,
        share: float = WHOLE,
    ) -> None:
        self._leases = leases
        self._deadlines = deadlines
        self._tenant_limit = tenant_limit
        self._first_ends: dict[str, tuple[float, float]] = {}  # by tenant: when that was looked up, and when it is
        self.shares = Shares(limit, share)
        self.bytes = Shares(limit_bytes, share)

    def check_room(self, tenant: str, size: int = 0) -> None:
        """Raises TooManyLeases, with the time until one ends, if no further lease may be opened for the tenant.

        size: of its item, in bytes.
        """
        held = self.shares.of(tenant)
        if held >= self._tenant_limit:
            raise TooManyLeases(
                f"the tenant has reached its limit of {counted(self._tenant_limit, 'open lease')} on this worker; "
                "settle some of them first",
                self._retry_after(tenant),
            )
        if not self.shares.admits(tenant):
            limit = self.shares.limit
            if self.shares.held >= limit:
                raise TooManyLeases(
                    f"this worker has reached its limit of {counted(limit, 'open lease')}; try again later",
                    self.retry_after(),
                )
            raise TooManyLeases(
                f"the tenant has {counted(held, 'open lease')} on this worker, its share of the limit of {limit}; "
                "settle some of them first",
                self._retry_after(tenant),
            )
        if self.bytes.room(tenant) <= size:  # otherwise there is no need to look closer
            self.check_bytes(tenant, size)

    def room(self, tenant: str) -> int:
        """How many more leases may be opened for the tenant."""
        return max(0, min(self._tenant_limit - self.shares.of(tenant), self.shares.room(tenant)))

    def check_bytes(self, tenant: str, size: int = 0) -> None:
        """Like `check_room`, for the limit of bytes only: the lease counts already (`reserve`)."""
        if not self.bytes.admits_item(tenant, max(1, size)):
            raise TooManyLeases(
                f"the tenant's leased jobs hold {counted(self.bytes.of(tenant), 'byte')} on this worker; the next job "
                f"would exceed its share of the limit of {counted(self.bytes.limit, 'byte')}; settle some leases first",
                self._retry_after(tenant),
            )

    def reserve(self, tenant: str, count: int) -> None:
        """Counts `count` leases as open until `release`. Raises TooManyLeases if so many more may not be opened."""
        held = self.shares.of(tenant)
        if count > (room := self.room(tenant)):
            self.shares.refused += 1
            raise TooManyLeases(
                f"the request needs {counted(count, 'more lease')}, and the tenant has {held} of at most "
                f"{counted(held + room, 'open lease')} on this worker; request fewer jobs",
                self._retry_after(tenant),
            )
        self.shares.take(tenant, count)

    def take(self, tenant: str, count: int) -> None:
        """Like `reserve`, without a check."""
        self.shares.take(tenant, count)

    def release(self, tenant: str, count: int) -> None:
        """The `count` leases are no longer reserved."""
        self.shares.give_back(tenant, count)

    def retry_after(self) -> int:
        """Whole seconds until the first of all leases ends, at least 1."""
        return _seconds_until(self._deadlines.first_s())

    def _retry_after(self, tenant: str) -> int:
        """Whole seconds until the tenant's first lease ends, at least 1. Computed at most once a second."""
        now_s = time.monotonic()
        looked_s, first_s = self._first_ends.get(tenant, (-math.inf, 0.0))
        if now_s - looked_s > LOOK_EVERY_S:
            first_s = min(
                (each.deadline_s for each in self._leases.values() if each.tenant == tenant), default=math.inf
            )
            self._first_ends[tenant] = now_s, first_s
        return _seconds_until(first_s)


def _seconds_until(first_s: float | None) -> int:
    """Whole seconds until that instant, at least 1."""
    left_s = LONGEST_RETRY_S if first_s is None else min(first_s - time.monotonic(), LONGEST_RETRY_S)
    return max(1, math.ceil(left_s))
