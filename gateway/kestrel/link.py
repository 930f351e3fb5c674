"""The port to one Kestrel server: what the layers above need from it, whatever its protocol.

Placement, polls, coverage and statistics are above this port and exist once. The links are
`server.memcache_link.MemcacheLink` and `multiplex.link.MultiplexedLink`. A link is created once per member and keeps
itself connected.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from gateway.errors import GatewayError, Unavailable
from gateway.kestrel.address import Address
from gateway.kestrel.health import Health, ServerHealth, ServerView
from gateway.kestrel.polls.values import EndReason, Get, PolledItem, PolledServer
from gateway.queue_stats import QueueStats

Put: TypeAlias = tuple[str, bytes, int]
"""Key, item, and expiry in seconds; 0: never."""

Report: TypeAlias = Callable[[Sequence[int], Sequence[GatewayError | None]], None]
"""Called with the places of puts in the batch and with the outcome of each: its error, or None if it is stored. Each
put is reported once."""
Sending: TypeAlias = Callable[[Get], float]
"""Called when the get has a connection; returns its `t=` in seconds, 0 for a take."""
Answered: TypeAlias = Callable[[Get, "TakenItem | None", Unavailable | None], None]
"""Called with the item of the get, or None if there was none, and with the reason if there is no answer."""

Taken: TypeAlias = Callable[["TakenItem | None", Unavailable | None], None]
"""Called with an item, or None if there was none, and with the reason if there is no answer."""


class TakenItem(PolledItem, Protocol):
    """An item that the server has set aside. It goes back if the link to it ends. See leases.lease.OpenRead."""

    data: bytes
    key: str

    @property
    def server(self) -> str: ...
    @property
    def deleted(self) -> bool: ...
    def on_lost(self, callback: Callable[[], None]) -> None: ...
    async def verify(self) -> None: ...
    async def check(self) -> bool: ...
    async def expires_s(self) -> float | None: ...
    async def confirm(self) -> None: ...
    def start_confirm(self, then: Callable[[GatewayError | None], None]) -> bool: ...
    @property
    def keeps_order(self) -> bool: ...
    async def first_of_batch(self) -> TakenItem: ...
    async def more(self, count: int, limit_bytes: int) -> Sequence[TakenItem]: ...
    async def turn(self) -> None: ...
    async def abort(self) -> None: ...
    async def abort_all(self, reads: Sequence[Any], /) -> None: ...
    def give_back(self) -> None:
        """Returns at once; the server puts the item back."""

    def start_abort(self, then: Callable[[bool], None]) -> None:
        """Puts the item back; calls `then` with whether the server answered."""


class PendingGet(Protocol):
    """A get from its start until its answer, which comes through `Answered` unless it is closed before."""

    def start(self) -> None:
        """May be answered before this returns."""

    def close(self) -> None:
        """Ends the get: an item that it was about to bring goes back."""


class QueueLink(PolledServer, Protocol):
    """One queue of a tenant on one server."""

    def get(self, get: Get) -> PendingGet:
        """A get that `start` sends."""

    def trouble(self, why: EndReason, error: Exception | None) -> Unavailable:
        """Why the server was not asked, as a new error to raise."""


class ServerLink(Protocol):
    """One server. `health` is what it does now, and why.

    batch_items, batch_bytes: the most that one `store` takes; one put alone may have more bytes. withholds: whether
    polls get no items of a fanout child; it is set before `start`.
    """

    address: Address
    health: ServerHealth
    batch_items: int
    batch_bytes: int
    withholds: Callable[[str], bool]

    # Lifetime
    def start(self) -> None:
        """Connects in the background, and again after each failure."""

    async def tried(self) -> None:
        """Returns when the first attempt to connect has ended, well or not."""

    async def leave(self) -> None:
        """Returns when no item is set aside on it. It gets no new commands. Cancelled: `close` ends them."""

    async def close(self) -> None:
        """Ends everything at once; items that are set aside go back."""

    # Health
    async def set_status(self, status: Health) -> None:
        """Raises: ServerUnavailable if nothing was sent, BackendRefused if it keeps another status, OutcomeUnknown."""

    def backend(self) -> ServerView: ...
    def count_connections(self) -> Mapping[str, int]: ...

    # Commands
    def start_store(self, puts: Sequence[Put], report: Report) -> None:
        """Stores the items; those of a queue in order. Each put is reported once, possibly before this returns."""

    async def store(self, puts: Sequence[Put], report: Report) -> None:
        """Returns when each put is reported."""

    def queue(self, key: str, tenant: str, sending: Sending, answered: Answered) -> QueueLink:
        """The queue as its polls use it: takes and waits, and how many of them the server has room for."""

    def start_take(self, key: str, tenant: str, then: Taken, after: object | None, /) -> Callable[[], None] | None:
        """Takes an item without waiting, and calls `then` once, later; returns what ends that.

        after: an item of this server whose confirm is started next; if it fails, `then` gets no item and no error.
        None: this server cannot do that, or not now.
        """

    async def peek(self, key: str) -> bytes | None:
        """The head item, which stays on the queue; None if there is none. May create the queue, as Kestrel does.

        Raises BackendUnavailable.
        """

    async def create(self, key: str) -> None:
        """Creates the queue if the server does not have it; a fanout child is on its disk.

        Raises: BackendUnavailable, BackendRefused. Cancelled: it may be created.
        """

    async def names(self) -> Collection[str]:
        """The key of every queue on it. Raises BackendUnavailable."""

    async def stats(self, keys: Sequence[str]) -> Mapping[str, QueueStats]:
        """The statistics of these queues; of all if `keys` is empty. Raises BackendUnavailable."""

    async def may_have_dropped(self, key: str) -> bool:
        """Whether a `delete` may have removed open reads of the queue. False if the server does not say."""

    async def deletes_idle_queues(self) -> bool:
        """Whether it has deleted queues by itself because they were empty and unused. False if it does not say."""

    async def flush(self, key: str) -> None:
        """Removes every item that is not set aside. Raises: BackendUnavailable, OutcomeUnknown."""

    async def delete(self, key: str) -> None:
        """Deletes the queue with its open reads. Raises: BackendUnavailable, OutcomeUnknown."""
