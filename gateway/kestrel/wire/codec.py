"""Kestrel's commands, on top of pymemcache. Owns what is sent, and which answers each command may have.

The methods block, so each call runs in a greenlet (bridge.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pymemcache.client.base import _readline, _readvalue
from pymemcache.exceptions import MemcacheServerError, MemcacheUnknownError

from gateway.kestrel.wire.bridge import Bridge
from gateway.kestrel.wire.checked_client import CheckedClient
from gateway.kestrel.wire.pace import AnswerPace

_NAME = re.compile(rb"(?:\A|\n)queue '([^'\r\n]*)' \{\r")
_SETTLED = (b"END",)
_DELETED = (b"DELETED", b"END")
_STATUSES = (b"UP", b"WRITEAVOID", b"READONLY", b"QUIESCENT", b"DOWN")


class KestrelClient(CheckedClient):
    """Kestrel's commands, and the greenlet in which their calls run."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    def store(self, key: str, data: bytes, expiry: int) -> bool | None:
        """True only for STORED, False for NOT_STORED."""
        stored: bool | None = self.set(key, data, expiry, noreply=False)
        self._clean(8 if stored is True else 12)
        return stored

    def store_many(
        self, puts: Sequence[tuple[str, bytes, int]], outcomes: list[bool | MemcacheServerError], sent: list[int]
    ) -> None:
        """Pipelined sets of key, data and expiry. Their answers are appended to `outcomes`.

        `sent[0]` becomes the number of items when they are sent. If it raises, the items after len(outcomes) and before
        sent[0] have no answer. A single item uses pymemcache's own method, whose `_store_cmd` supports one item per
        key.
        """
        if len(puts) == 1:
            sent[0] = 1
            outcomes.append(self._store_one(puts[0]))
            return
        commands = [
            b"set %b 0 %d %d\r\n%b\r\n" % (self.check_key(key, b""), expiry, len(data), data)
            for key, data, expiry in puts
        ]
        sent[0] = len(puts)
        self.sock.sendall(b"".join(commands))
        rest = b""
        for _ in puts:
            rest, line = _readline(self.sock, rest)
            outcomes.append(self._stored(line))
        if rest:
            raise MemcacheUnknownError("more bytes than the answers")

    def _store_one(self, put: tuple[str, bytes, int]) -> bool | MemcacheServerError:
        try:
            return self.store(*put) is True
        except MemcacheServerError as refusal:
            return refusal

    def _stored(self, line: bytes) -> bool | MemcacheServerError:
        if line == b"STORED":
            return True
        if line == b"NOT_STORED":
            return False
        try:
            self._raise_errors(line, b"set")
        except MemcacheServerError as refusal:
            return refusal
        raise MemcacheUnknownError(line[:32])

    def take(self, key: str, wait_ms: int) -> bytes | None:
        """The next item, set aside for this connection (`/open`), or None. `wait_ms` 0 asks without waiting."""
        return self._get(f"{key}/t={wait_ms}/open" if wait_ms else f"{key}/open")

    def take_many(self, key: str, count: int, items: list[bytes]) -> None:
        """Pipelined takes that do not wait. Their items are appended to `items`, which has those that came before an
        error."""
        self.sock.sendall(b"get %b/open\r\n" % self.check_key(key, b"") * count)
        rest = b""
        for _ in range(count):
            rest, line = _readline(self.sock, rest)
            if line == b"END":
                continue
            if not line.startswith(b"VALUE "):
                self._raise_errors(line, b"get")
                raise MemcacheUnknownError(line[:32])
            rest, data = _readvalue(self.sock, rest, int(line.split()[3]))
            rest, line = _readline(self.sock, rest)
            if line != b"END":
                raise MemcacheUnknownError(line[:32])
            items.append(data)
        if rest:
            raise MemcacheUnknownError("more bytes than the answers")

    def settle_oldest(self, key: str, runs: Sequence[int], settled: list[int]) -> None:
        """Pipelined settlements of the oldest open reads: n confirms n of them, 0 puts one back. For each command that
        is answered, the number of its reads is appended to `settled`."""
        name = self.check_key(key, b"")
        self.sock.sendall(
            b"".join(b"confirm %b %d\r\n" % (name, run) if run else b"get %b/abort\r\n" % name for run in runs)
        )
        rest = b""
        for run in runs:
            rest, line = _readline(self.sock, rest)
            if line != b"END":
                self._raise_errors(line, b"confirm")
                raise MemcacheUnknownError(line[:32])
            settled.append(run or 1)
        if rest:
            raise MemcacheUnknownError("more bytes than the answers")

    def take_existing(self, key: str, wait_ms: int) -> bytes | None:
        """Like `take`, but creates no queue: None at once if it does not exist.

        A get creates the queue that it names, also a deleted fanout child. Source: kestrel-wire.md, "Names and errors".
        """
        if not any("=" in line for line in self.dump_stats(key)):
            return None
        self.sock.received = 0  # the answer to the next command begins
        return self.take(key, wait_ms)

    def peek(self, key: str) -> bytes | None:
        """The head item, which stays in place, or None."""
        return self._get(f"{key}/peek")

    def confirm(self, key: str) -> None:
        """Removes the item of one open read of this connection for good; the answer proves it."""
        self._expect(b"confirm %b 1" % self.check_key(key, b""), _SETTLED)

    def close_read(self, key: str) -> None:
        """Settles the open read on a server without `confirm`. The answer is the same if there was none."""
        self._expect(b"get %b/close" % self.check_key(key, b""), _SETTLED)

    def abort(self, key: str) -> None:
        """Puts the item of the open read back to the head of its queue."""
        self._expect(b"get %b/abort" % self.check_key(key, b""), _SETTLED)

    def flush(self, key: str) -> None:
        """Removes the items of the queue that are not set aside."""
        self._line(b"flush %b" % self.check_key(key, b""))

    def drop(self, key: str) -> None:
        """Deletes the queue with its items and open reads. Succeeds also for a queue that never existed."""
        self._expect(b"delete %b" % self.check_key(key, b""), _DELETED)

    def ask_version(self) -> str:
        """The server's version, such as `2.4.8-SNAPSHOT`."""
        line = self._line(b"version")
        if not line.startswith(b"VERSION "):
            raise MemcacheUnknownError(line[:32])
        return line[8:].decode("utf-8", "replace")

    def ask_status(self) -> str:
        """`UP`, `WRITEAVOID`, `READONLY`, `QUIESCENT` or `DOWN`."""
        line = self._line(b"status")
        if line not in _STATUSES:
            raise MemcacheUnknownError(line[:32])
        return line.decode()

    def set_status(self, status: str) -> None:
        """Sets the status of the server: `up`, `readonly` or `quiescent`."""
        self._expect(b"status " + status.encode(), (*_SETTLED, *_STATUSES))

    def refuse_confirm(self) -> None:
        """Sends a `confirm` that cannot confirm anything. Returns on its ERROR. Touches and creates no queue."""
        self.sock.sendall(b"confirm probe 1\r\n")
        rest, line = _readline(self.sock, b"")
        if rest or not line.startswith(b"ERROR"):
            raise MemcacheUnknownError(line[:32])

    def dump_stats(self, *keys: str) -> list[str]:
        """The lines of `dump_stats`, for these queues or for all, without END."""
        return self._lines(b" ".join([b"dump_stats", *(self.check_key(key, b"") for key in keys)]))

    def all_stats(self) -> list[str]:
        """The lines of `stats`, without END."""
        return self._lines(b"stats")

    def storage_stats(self) -> dict[str, str]:
        """The counters of the embedded broker's storage, which only that broker has."""
        return dict(line.removeprefix("STAT ").split(" ", 1) for line in self._lines(b"stats storage"))

    def queue_names(self) -> list[str]:
        """The name of every queue, from `dump_stats`; their statistics are skipped."""
        return [name.decode("utf-8", "replace") for part in self._parts(b"dump_stats") for name in _NAME.findall(part)]

    def stat(self, name: str) -> str | None:
        """One value of `stats`, or None if it is missing; other values are skipped."""
        line = re.compile(rb"(?:\A|\n)STAT %b (.*)\r" % re.escape(name.encode()))
        found = [match for part in self._parts(b"stats") for match in line.findall(part)]
        return found[0].decode("utf-8", "replace") if found else None


class Codecs:
    """Lends clients with a ready greenlet. Only a client whose call ended cleanly is reused.

    A greenlet is lent for one call. An idle or pinned connection has none, so it costs no stack. pace: of the answers
    of all connections.
    """

    def __init__(self, spare: int = 64) -> None:
        self._spare = spare
        self.pace = AnswerPace()
        self._ready: list[KestrelClient] = []

    def lend(self) -> KestrelClient:
        """A client that is not in use."""
        return self._ready.pop() if self._ready else KestrelClient(Bridge())

    def give_back(self, client: KestrelClient) -> None:
        """Keeps the client for a later call, up to a small number."""
        if len(self._ready) < self._spare:
            self._ready.append(client)

    def close(self) -> None:
        """Ends the greenlets that are not in use."""
        for client in self._ready:
            client.bridge.end()
        self._ready.clear()
