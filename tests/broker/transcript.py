"""Reads the recorded transcript into steps and replays them on running brokers. The differences stand in the test."""

from __future__ import annotations

import codecs
import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.broker import BrokerProcess
from tests.lab.memcache import MemcacheClient

FILE = Path(__file__).with_name("kestrel-2.4.8-transcript.txt")
_LINE = re.compile(r"\[([\w-]+)\] (>>|<<|--) (.*)", re.DOTALL)
_CLOSED = "  <connection closed by server>"
_AFTER = re.compile(r" \(after \d+ ms\)$")


@dataclass(frozen=True, slots=True)
class Step:
    """One line: `kind` is `>>`, `<<`, `--`, `stats` or `event`; `closed` whether the server closes after it."""

    kind: str
    connection: str
    text: str
    closed: bool = False

    @property
    def data(self) -> bytes:
        return codecs.escape_decode(self.text.encode("latin-1"))[0]


@dataclass(slots=True)
class Section:
    title: str
    steps: list[Step] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.title.split()[0]


def sections(edit: Callable[[str, str], str | None]) -> list[Section]:
    """All sections in order; `edit(section name, line)` may replace a line, or drop it by None."""
    found = [Section("0 start")]
    for line in FILE.read_text("latin-1").splitlines()[1:]:
        if line.startswith("### "):
            found.append(Section(line[4:]))
        elif line.strip():
            edited = edit(found[-1].name, line)
            found[-1].steps += [_step(each) for each in (edited or "").splitlines() if each]
    return [section for section in found if section.steps]


def _step(line: str) -> Step:
    if line.startswith("    stats: "):
        return Step("stats", "", line[11:])
    match = _LINE.match(line)
    if match is None:
        return Step("event", "", line)
    connection, kind, text = match.groups()
    closed = text.endswith(_CLOSED)
    if kind == "<<":
        text = _AFTER.sub("", text.removesuffix(_CLOSED))
        if text == "(no bytes)":
            text = ""
    return Step(kind, connection, text, closed)


class Replay:
    """Plays steps on one broker and notes each answer that differs."""

    def __init__(
        self,
        start: Callable[[], BrokerProcess],
        differs: Callable[[str, bytes, Step, bytes], bool],
        stat_differs: Callable[[str], bool],
        pause_before: Callable[[str, Step], float],
        closing: set[bytes],
    ) -> None:
        self.start = start
        self.broker = start()
        self.mismatches: dict[str, list[str]] = {}
        self.compared = 0
        self._differs = differs
        self._stat_differs = stat_differs
        self._pause_before = pause_before
        self._closing = closing  # commands after which this broker closes although the recorded one did not
        self._clients: dict[str, MemcacheClient] = {}
        self._closed: set[str] = set()
        self._sent: dict[str, bytes] = {}

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self.broker.__exit__()

    def play(self, section: Section) -> None:
        self.mismatches[section.name] = []
        for step, following in _pairs(section.steps):
            time.sleep(self._pause_before(section.name, step))
            getattr(self, _PLAYERS[step.kind])(section.name, step, following)

    def _client(self, name: str) -> MemcacheClient:
        if name not in self._clients:
            self._clients[name] = self.broker.client(10)
        return self._clients[name]

    def _send(self, section: str, step: Step, following: Step | None) -> None:
        client = self._client(step.connection)
        data = self._sent[step.connection] = step.data
        waits = following is not None and not (following.kind == "<<" and following.connection == step.connection)
        blocked = re.match(rb"(?:get (\w+)/.*t=|monitor (\w+) )[^\r]*\r\n\Z", data) if waits else None
        queue = (blocked[1] or blocked[2]).decode() if blocked else ""
        waiters = self.broker.stat(f"queue_{queue}_waiters") if blocked else 0
        if step.connection in self._closed:
            return
        client.send(data)
        if blocked:
            self.broker.wait_for_stat(f"queue_{queue}_waiters", waiters + 1)

    def _receive(self, section: str, step: Step, _: Step | None) -> None:
        expected, name = step.data, step.connection
        client = self._client(name)
        self.compared += 1
        got = b""
        with contextlib.suppress(TimeoutError):
            got = b"" if name in self._closed else self._read(client, step, expected)
        if self._sent.get(name) in self._closing:
            self._closed.add(name)
        if got != expected and not self._differs(section, self._sent.get(name, b""), step, got):
            self.mismatches[section].append(
                f"[{name}] after {self._sent.get(name, b'')[:80]!r}: {got[:300]!r}, recorded {expected[:300]!r}"
            )
        if step.closed:
            self._closed.add(name)
            client.socket.settimeout(2)
            with contextlib.suppress(TimeoutError):
                client.read_all()
                return
            self.mismatches[section].append(f"[{name}] is not closed after {self._sent.get(name, b'')[:80]!r}")

    def _read(self, client: MemcacheClient, step: Step, expected: bytes) -> bytes:
        """As many bytes as recorded; all there is where the server is to close, or where the length may differ."""
        if step.closed or self._sent.get(step.connection) in self._closing:
            return client.read_all()
        try:
            if expected.startswith((b"STAT ", b"queue '")):
                return client.read_until(b"\r\nEND\r\n")
            return client.read(len(expected))
        except EOFError as exc:
            return bytes(exc.args[0])

    def _act(self, section: str, step: Step, _: Step | None) -> None:
        client = self._clients[step.connection]
        if step.text.startswith("shutdown"):
            client.socket.shutdown(socket.SHUT_WR)
            return
        del self._clients[step.connection]
        self._closed.discard(step.connection)
        client.reset() if "resets" in step.text else client.close()

    def _stats(self, section: str, step: Step, _: Step | None) -> None:
        for pair in step.text.split():
            key, value = pair.split("=")
            if self._stat_differs(key):
                continue
            self.compared += 1
            try:
                self.broker.wait_for_stat(key, int(value), 2)
            except AssertionError as exc:
                self.mismatches[section].append(str(exc))

    def _happen(self, section: str, step: Step, _: Step | None) -> None:
        if step.text.startswith("--- sent signal"):
            self.broker.process.send_signal(int(step.text.split()[3]))
            self.broker.process.wait(10)
        elif step.text.startswith("--- server up"):
            self.broker.__exit__()
            self.broker = self.start()


_PLAYERS = {">>": "_send", "<<": "_receive", "--": "_act", "stats": "_stats", "event": "_happen"}


def _pairs(steps: list[Step]) -> Iterator[tuple[Step, Step | None]]:
    for index, step in enumerate(steps):
        yield step, steps[index + 1] if index + 1 < len(steps) else None
