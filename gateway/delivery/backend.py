"""What the use cases need from Kestrel: the Protocols that gateway.kestrel implements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gateway.coverage import Coverage, Covered
from gateway.errors import GatewayError
from gateway.leases.lease import OpenRead
from gateway.queue_stats import MergedStats, QueueStats


class Poll(Protocol):
    """One waiting poll. `cancel` ends it at once from any callback; then `result` returns None.

    coverage: how many servers were asked, if the wait ended empty and not all were. `result` raises BackendUnavailable,
    and TooManyLeases or TooManyWaiters if all servers that could be asked have as many items or gets as they may.
    """

    @property
    def coverage(self) -> Coverage | None: ...

    async def result(self) -> OpenRead | None: ...
    def cancel(self) -> None: ...


class Backend(Protocol):
    """Kestrel, by key.

    Raises BackendUnavailable, BackendRefused, QueueFull, JobTooLarge, NotSupported, OutcomeUnknown.
    """

    async def put(
        self, key: str, data: bytes, expiry: int = 0, *, ordering_key: str | None = None, duplicates_ok: bool = False
    ) -> None: ...
    async def put_many(
        self,
        key: str,
        items: Sequence[tuple[bytes, int]],
        *,
        ordering_key: str | None = None,
        duplicates_ok: bool = False,
    ) -> list[GatewayError | None]: ...
    def wait(self, key: str, timeout_s: float, tenant: str = "") -> Poll: ...
    def wait_in_order(self, keys: Sequence[str], timeout_s: float, tenant: str = "") -> Poll: ...
    def take_after(self, read: OpenRead, key: str, timeout_s: float, tenant: str = "") -> Poll | None:
        """Like `wait`, for an item that is taken only after the item `read` is confirmed.

        The caller starts that confirm next, and cancels the poll if it fails. None: that is not possible now.
        """

    async def peek(self, key: str) -> Covered[bytes | None]: ...
    async def keys(self) -> frozenset[str]: ...
    async def queue_stats(self, *keys: str) -> MergedStats: ...
    async def missing(self, key: str) -> Coverage | None: ...
    async def may_have_dropped(self, key: str, server: str) -> bool: ...
    async def flush(self, key: str) -> Coverage: ...
    async def delete(self, key: str) -> Coverage: ...


class BackendMember(Protocol):
    """One server, for queues whose items belong on a certain one. Hashable; equal to another one of the same server.

    reads, writes: whether it delivers and accepts items. take: the item at the head, set aside, or None.
    Raises BackendUnavailable; `take` also TooManyLeases, `put` also QueueFull, JobTooLarge, OutcomeUnknown.
    """

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> bool: ...
    @property
    def writes(self) -> bool: ...
    async def peek(self, key: str) -> bytes | None: ...
    async def stats(self, key: str) -> QueueStats | None: ...
    async def figures(self, keys: Sequence[str]) -> Mapping[str, QueueStats]: ...
    async def put(self, key: str, data: bytes) -> None: ...
    async def take(self, key: str, tenant: str = "") -> OpenRead | None: ...


class FanoutChildren(Protocol):
    """The fanout children on all servers; see gateway.kestrel.fanout.Fanout."""

    async def of(self, key: str) -> Covered[frozenset[str]]: ...
    async def create(self, key: str, limit: int) -> Covered[bool]: ...
    async def delete(self, key: str) -> tuple[list[str], Coverage]: ...
    async def warnings(self) -> list[str]: ...


OnGone = Callable[[Callable[[], None]], Callable[[], None]]
"""Registers a callback for the end of the consumer's connection, called once, at once if it has ended; returns a
function that removes the callback."""
