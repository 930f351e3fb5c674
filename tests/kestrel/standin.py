"""A small scripted stand-in for Kestrel and the servers that imitate it, on real sockets in the test's own loop.

It speaks as much of the protocol as the client side uses and misbehaves when told to. It stores nothing on disk.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from tests.kestrel.support import until


@dataclass
class Manners:
    """How the server behaves.

    `status`: empty where the command is unknown. `lost_wakeups`: one stored item in so many wakes nobody; 0: none.
    `copying_s`: the longest time that a `set` of a queue with children copies, in which other commands are carried out,
    as in Kestrel's threads: a child that is deleted meanwhile is created again by its copy, and while one of SAFE or
    more children is created or deleted, a copy to another one may be lost. `aged_out`: `queue_expires` of `stats`.
    `script` maps a command word to what happens instead, used up from the left.
    """

    version: str = "2.4.8-SNAPSHOT"
    confirm: bool = True
    dump_stats: bool = True
    waits: bool = True
    status: str = "UP"
    open_reads: int = 100
    frozen: bool = False
    chop: bool = False
    lost_wakeups: int = 0
    copying_s: float = 0.0
    aged_out: int = 0
    script: dict[str, deque[Callable[[Session], None]]] = field(default_factory=dict)

    def once(self, word: str, action: Callable[[Session], None]) -> None:
        """The next command `word` does `action` instead."""
        self.script.setdefault(word, deque()).append(action)


SAFE = 6
"""Source: kestrel-wire.md, "Set": with up to 5 children no copy was lost."""


def darner() -> Manners:
    """Darner 0.2.0: no confirm, one open read a connection."""
    return Manners(version="0.2.0", confirm=False, dump_stats=False, status="", open_reads=1)


def siberite() -> Manners:
    """Siberite 0.6.4: as Darner, and `t=` is ignored."""
    return Manners(version="siberite-0.6.4", confirm=False, dump_stats=False, status="", open_reads=1, waits=False)


def answer(data: bytes, *, close: bool = False) -> Callable[[Session], None]:
    """Answers exactly these bytes, and closes if asked to."""

    def act(session: Session) -> None:
        session.send(data)
        if close:
            session.close()

    return act


def silence(_session: Session) -> None:
    """Does not answer at all."""


def reset(session: Session) -> None:
    """Resets the connection (RST)."""
    sock = session.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    session.transport.abort()


def hang_up(session: Session) -> None:
    """Closes without an answer."""
    session.close()


class Session(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: StandIn) -> None:
        self.server = server
        self.buffer = b""
        self.held: list[tuple[str, bytes]] = []
        self.copying = False
        self.waiting: str | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.closed = False
        self.chopped_until = 0.0
        self.unsent = b""
        self.asked = 0

    def connection_made(self, transport):
        self.transport = transport
        self.server.sessions.append(self)
        self.server.accepted += 1
        if not self.server.running:
            transport.abort()

    def connection_lost(self, exc):
        self.closed = True
        self.server.sessions.remove(self)
        self.stop_waiting()
        for key, data in reversed(self.held):
            self.server.back(key, data)
        self.held.clear()

    def data_received(self, data):
        self.buffer += data
        if not self.server.manners.frozen:
            self.work()

    def work(self) -> None:
        while not self.closed and self.waiting is None and not self.copying and b"\r\n" in self.buffer:
            line, _, rest = self.buffer.partition(b"\r\n")
            words = line.decode("latin-1").split(" ")
            body = b""
            if words[0] == "set":
                size = int(words[4])
                if len(rest) < size + 2:
                    return
                body, rest = rest[:size], rest[size + 2 :]
            self.buffer = rest
            self.asked += 1
            self.server.log.append(line.decode("latin-1"))
            actions = self.server.manners.script.get(words[0])
            if actions:
                actions.popleft()(self)
            else:
                self.command(words, body)

    def send(self, data: bytes) -> None:
        if self.closed:
            return
        if self.server.manners.frozen:
            self.unsent += data
        elif self.server.delay_s:
            self.chopped_until = max(self.chopped_until, self.server.loop.time()) + self.server.delay_s
            self.server.loop.call_at(self.chopped_until, self.transport.write, data)
        elif self.server.manners.chop:
            for i in range(len(data)):
                self.chopped_until = max(self.chopped_until, self.server.loop.time()) + 0.0005
                self.server.loop.call_at(self.chopped_until, self.transport.write, data[i : i + 1])
        else:
            self.transport.write(data)

    def close(self) -> None:
        self.transport.close()

    def command(self, words: list[str], body: bytes) -> None:
        manners, server = self.server.manners, self.server
        match words:
            case ["version"]:
                self.send(f"VERSION {manners.version}\r\n".encode())
            case ["status"] if manners.status:
                self.send(f"{manners.status}\r\n".encode())
            case ["status", word] if manners.status:
                manners.status = word.upper()
                self.send(b"END\r\n")
            case ["set", *_] if manners.status in ("READONLY", "QUIESCENT"):
                self.send(f"SERVER_ERROR {manners.status.lower()}\r\n".encode())
                self.close()
            case ["get", name] if manners.status == "QUIESCENT" and not name.endswith(("/close", "/abort")):
                self.send(b"SERVER_ERROR quiescent\r\n")
                self.close()
            case ["set", key, *_] if server.children(key):
                self.copying = True
                server.copies.append(server.loop.create_task(self.copy(key, body)))
            case ["set", key, *_]:
                full = len(server.queues.get(key, ())) >= server.max_items
                self.send(b"NOT_STORED\r\n" if full else b"STORED\r\n")
                if not full:
                    server.append(key, body)
            case ["get", name]:
                self.get(*name.split("/"))
            case ["confirm", key, count] if manners.confirm:
                mine = [held for held in self.held if held[0] == key]
                if len(mine) < int(count) or count == "0":
                    self.send(b"ERROR\r\n")
                else:
                    self.held.remove(mine[0])
                    server.confirmed.append(mine[0])
                    self.send(b"END\r\n")
            case ["flush", key]:
                server.queues.pop(key, None)
                self.send(b"END\r\n")
            case ["delete", key]:
                server.delete(key)
                self.send(b"DELETED\r\n")
            case ["dump_stats", *keys] if manners.dump_stats:
                self.send(server.dump(keys))
            case ["stats"]:
                self.send(server.stats())
            case _:
                self.send(b"ERROR\r\n")
                self.close()

    async def copy(self, key: str, body: bytes) -> None:
        """A `set` as Kestrel does it: to the children first, whatever becomes of them, and then to the queue."""
        server = self.server
        children, changes = server.children(key), server.changes.get(key, 0)
        for child in children:
            if server.manners.copying_s:
                await asyncio.sleep(random.uniform(0, server.manners.copying_s / len(children)))
            if len(children) >= SAFE and changes != server.changes.get(key, 0) and child in server.queues:
                changes = server.changes.get(key, 0)
                server.lost_copies += 1  # the set changed under the copying thread
            elif len(server.queues.get(child, ())) < server.max_items:
                server.append(child, body)
        full = len(server.queues.get(key, ())) >= server.max_items
        if not full:
            server.append(key, body)
        self.copying = False
        self.send(b"NOT_STORED\r\n" if full else b"STORED\r\n")
        self.work()

    def get(self, key: str, *options: str) -> None:
        server = self.server
        server.create(key)
        queue = server.queues[key]
        if "close" in options or "abort" in options:
            mine = [held for held in self.held if held[0] == key]
            if mine:
                self.held.remove(mine[0])
                if "close" in options:
                    server.confirmed.append(mine[0])
                else:
                    server.back(key, mine[0][1])
            if "open" not in options:
                self.send(b"END\r\n")
                return
        if "open" in options and len(self.held) >= server.manners.open_reads:
            self.send(b"ERROR\r\n")
            self.close()
            return
        if "peek" in options:
            self.send(self.value(key, queue[0]) if queue else b"END\r\n")
        elif queue:
            self.give(key, queue.popleft())
        else:
            wait_ms = next((int(o[2:]) for o in options if o.startswith("t=")), 0)
            if wait_ms and server.manners.waits:
                self.waiting = key
                server.waiters.setdefault(key, deque()).append(self)
                self.timer = server.loop.call_later(wait_ms / 1000, self.time_over)
            else:
                self.send(b"END\r\n")

    def give(self, key: str, data: bytes) -> None:
        self.held.append((key, data))
        self.send(self.value(key, data))

    @staticmethod
    def value(key: str, data: bytes) -> bytes:
        return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key.encode(), len(data), data)

    def stop_waiting(self) -> None:
        if self.waiting is not None:
            self.server.waiters[self.waiting].remove(self)
            self.waiting = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def time_over(self) -> None:
        self.stop_waiting()
        self.send(b"END\r\n")
        self.work()


class StandIn:
    """The server. `async with StandIn(manners) as server`; `server.address` is what the client is given."""

    def __init__(self, manners: Manners | None = None, port: int = 0) -> None:
        self.manners = manners or Manners()
        self.port = port
        self.queues: dict[str, deque[bytes]] = {}
        self.waiters: dict[str, deque[Session]] = {}
        self.sessions: list[Session] = []
        self.log: list[str] = []
        self.confirmed: list[tuple[str, bytes]] = []
        self.accepted = 0
        self.running = False
        self.max_items = 1 << 30
        self.appended = 0
        self.copies: list[asyncio.Task[None]] = []
        self.changes: dict[str, int] = {}
        self.lost_copies = 0
        self.stored_at: dict[bytes, float] = {}
        self.delay_s = 0.0

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def open(self) -> None:
        self.server = await self.loop.create_server(lambda: Session(self), "127.0.0.1", self.port, backlog=1000)
        self.running = True
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Closes the listener and every connection, as a restart does; the items stay."""
        self.running = False
        self.server.close()
        for session in list(self.sessions):
            session.transport.abort()
        await until(lambda: not self.sessions)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def thaw(self) -> None:
        """Ends the freeze: commands that came during it are handled."""
        self.manners.frozen = False
        for session in list(self.sessions):
            unsent, session.unsent = session.unsent, b""
            if unsent:
                session.send(unsent)
            session.work()

    def children(self, key: str) -> list[str]:
        """The children of the queue."""
        return [] if "+" in key else [each for each in self.queues if each.startswith(f"{key}+")]

    def create(self, key: str) -> None:
        """Creates the queue if it does not exist."""
        if key not in self.queues:
            self.queues[key] = deque()
            self.changed(key)

    def changed(self, key: str) -> None:
        parent, child, _ = key.partition("+")
        if child:
            self.changes[parent] = self.changes.get(parent, 0) + 1

    def append(self, key: str, data: bytes) -> None:
        self.create(key)
        self.queues[key].append(data)
        self.appended += 1
        self.stored_at[data] = self.loop.time()
        if not self.manners.lost_wakeups or self.appended % self.manners.lost_wakeups:
            self.feed(key)

    def back(self, key: str, data: bytes) -> None:
        self.create(key)
        self.queues[key].appendleft(data)
        self.feed(key)

    def feed(self, key: str) -> None:
        waiters, queue = self.waiters.get(key), self.queues[key]
        while waiters and queue:
            session = waiters[0]
            session.stop_waiting()
            session.give(key, queue.popleft())

    def delete(self, key: str) -> None:
        if self.queues.pop(key, None) is not None:
            self.changed(key)
        for session in list(self.waiters.get(key, ())):
            session.time_over()

    def dump(self, keys: list[str]) -> bytes:
        """keys: of these queues only; empty: of all."""
        blocks = [
            f"queue '{key}' {{\r\n  items={len(items)}\r\n  open_transactions={self.held(key)}"
            f"{self.listed(key)}\r\n}}\r\n"
            for key, items in self.queues.items()
            if not keys or key in keys
        ]
        return "".join([*(blocks or ["\r\n"]), "END\r\n"]).encode()

    def listed(self, key: str) -> str:
        """The line of `dump_stats` with the children of the queue, if it has some."""
        children = self.children(key)
        return f"\r\n  children={','.join(children)}" if children else ""

    def stats(self) -> bytes:
        lines = ["STAT version 0.2.0", f"STAT queue_expires {self.manners.aged_out}"]
        for key, items in self.queues.items():
            lines += [f"STAT queue_{key}_items {len(items)}", f"STAT queue_{key}_total_items 7"]
            lines += [f"STAT queue_{key}_waiters 0", f"STAT queue_{key}_open_transactions {self.held(key)}"]
        return ("\r\n".join([*lines, "END"]) + "\r\n").encode()

    def held(self, key: str) -> int:
        return sum(held[0] == key for session in self.sessions for held in session.held)
