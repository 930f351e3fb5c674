"""One blocking connection to a Kestrel server, for commands that run alone in their process.

What is sent and which answers count is in gateway/kestrel/wire/codec.py; here is the socket, and `monitor`, which takes
many items at a time. A connection that failed in any way is not used again: closing it puts its open reads back.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Final, Self

from pymemcache.client.base import _readline, _readvalue
from pymemcache.exceptions import MemcacheError, MemcacheServerError, MemcacheUnknownError

from gateway.common.counted import counted
from gateway.common.net import keepalive, set_options
from gateway.kestrel.address import Address
from gateway.kestrel.wire.bridge import Bridge
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.stats import parse_dump, parse_stats
from gateway.queue_stats import QueueStats

_CONNECT_S: Final = 5.0
"""Connecting takes a few seconds at most. Source: clients/timeouts-and-retries.md."""
_ANSWER_S: Final = 60.0
"""Longer than a server takes for a batch of puts with a sync, also while a disk is busy."""
_MONITOR_S: Final = 1
"""How long `monitor` waits if it has fewer items than asked for; it does not wait if it has all. Source:
docs/kestrel-wire.md, "Reliable reads"."""


class KestrelFailed(Exception):
    """The server did not do it, or what it did is not known. retryable: it is unreachable or full now."""

    def __init__(self, what: str, *, retryable: bool) -> None:
        super().__init__(what)
        self.retryable = retryable


class _SocketWire:
    """A socket as the codec knows it, which counts the bytes that were received since the call began."""

    def __init__(self, sock: socket.socket) -> None:
        self.received = 0
        self._socket = sock

    def sendall(self, data: bytes) -> None:
        self._socket.sendall(data)

    def recv(self, size: int) -> bytes:
        data = self._socket.recv(size)
        self.received += len(data)
        return data


class _MonitorClient(KestrelClient):
    def monitor(self, key: str, most: int) -> list[bytes]:
        """Up to `most` items, each set aside for this connection."""
        self.sock.sendall(b"monitor %b %d %d\r\n" % (self.check_key(key, b""), _MONITOR_S, most))
        items: list[bytes] = []
        rest = b""
        while True:
            rest, line = _readline(self.sock, rest)
            if line == b"END":
                return items
            self._raise_errors(line, b"monitor")
            fields = line.split(b" ")
            if len(fields) != 4 or fields[0] != b"VALUE" or not fields[3].isdigit():
                raise MemcacheUnknownError(line[:32])
            rest, value = _readvalue(self.sock, rest, int(fields[3]))
            items.append(value)
            rest, line = _readline(self.sock, rest)
            if line != b"END":
                raise MemcacheUnknownError(line[:32])

    def confirm_many(self, key: str, count: int) -> None:
        self._expect(b"confirm %b %d" % (self.check_key(key, b""), count), (b"END",))


class KestrelConnection:
    """One connection. Every method raises KestrelFailed. Use as a context manager."""

    def __init__(self, address: Address) -> None:
        self.address = address
        try:
            self._socket = _connect(address)
        except OSError as exc:
            raise KestrelFailed(f"{address}: {exc.strerror or exc}", retryable=True) from exc
        self._client = _MonitorClient(Bridge())
        self._wire = _SocketWire(self._socket)
        try:
            with self._call("version") as client:
                self.version = client.ask_version()
        except KestrelFailed as failed:
            if isinstance(failed.__cause__, MemcacheError):
                what = f"{address} does not answer like a Kestrel server; give its memcache port, such as 22133"
                raise KestrelFailed(what, retryable=False) from failed
            raise
        self.is_kestrel = not self.version.lower().startswith(("darner", "siberite", "0."))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Items that are set aside go back to their queues."""
        self._client.sock = None
        self._socket.close()

    def queues(self) -> dict[str, QueueStats]:
        """Every queue of the server."""
        with self._call("stats") as client:
            try:
                return parse_dump(client.dump_stats()) if self.is_kestrel else parse_stats(client.all_stats())
            except ValueError as exc:
                raise MemcacheUnknownError(str(exc)) from exc

    def store(self, key: str, items: Sequence[tuple[bytes, int]]) -> tuple[int, str]:
        """Puts the items in order. Returns how many of the first ones are stored, and why the next one is not.

        items: bytes, and the expiry on the wire.
        """
        outcomes: list[bool | MemcacheServerError] = []
        try:
            with self._call(f"set {key}") as client:
                client.store_many([(key, data, expiry) for data, expiry in items], outcomes, [0])
        except KestrelFailed as failed:
            return _stored(outcomes), str(failed)
        count = _stored(outcomes)
        if count == len(items):
            return count, ""
        found = outcomes[count]
        if found is False:
            size = counted(len(items[count][0]), "byte")
            return count, f"{self.address}: the queue {key} is full, or an item of {size} is too large"
        return count, f"{self.address}: {found}"

    def take(self, key: str, most: int) -> list[bytes]:
        """Up to `most` items, set aside for this connection; none if the queue has none."""
        with self._call(f"get {key}") as client:
            if self.is_kestrel:
                return client.monitor(key, most)
            item = client.take(key, 0)
            return [] if item is None else [item]

    def confirm(self, key: str, count: int) -> None:
        """Removes the first `count` items that are set aside, for good."""
        with self._call(f"confirm {key}") as client:
            if self.is_kestrel:
                client.confirm_many(key, count)
            else:
                client.close_read(key)

    def put_back(self, key: str, count: int) -> None:
        """Puts `count` items back to the head of their queue, in their order. They are all that is set aside.

        An abort puts the oldest of them before all others, so aborts reverse the order. A second time restores it,
        unless another client takes items of the queue meanwhile. Source: docs/kestrel-wire.md, "Reliable reads".
        """
        self._abort(key, count)
        if count > 1:
            self._abort(key, len(self.take(key, count)))

    def _abort(self, key: str, count: int) -> None:
        with self._call(f"get {key}/abort") as client:
            client.settle_oldest(key, [0] * count, [])

    def drop(self, key: str) -> None:
        """Removes the queue with its items."""
        with self._call(f"delete {key}") as client:
            client.drop(key)

    @contextlib.contextmanager
    def _call(self, what: str) -> Iterator[_MonitorClient]:
        self._wire.received = 0
        self._client.sock = self._wire
        try:
            yield self._client
        except (MemcacheError, OSError, EOFError) as exc:
            self.close()
            text = exc.args[0] if exc.args else type(exc).__name__
            shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(exc)
            raise KestrelFailed(f"{self.address}: {what}: {shown or type(exc).__name__}", retryable=True) from exc
        except BaseException:  # Ctrl-C: the rest of the answer would be taken for the next one
            self.close()
            raise


def _connect(address: Address) -> socket.socket:
    if address.path:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_CONNECT_S)
        sock.connect(address.path)
    else:
        sock = socket.create_connection((address.host, address.port), _CONNECT_S)
        set_options(sock, keepalive(30, 10, 3))
    sock.settimeout(_ANSWER_S)
    return sock


def _stored(outcomes: Sequence[object]) -> int:
    return next((place for place, each in enumerate(outcomes) if each is not True), len(outcomes))
