"""The broker's listeners: binds addresses, makes sessions, closes idle clients, stops in order."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import stat
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from gateway.broker.broker import Broker
from gateway.broker.memcache.commands import execute
from gateway.broker.memcache.session import Session
from gateway.common import net

log = logging.getLogger(__name__)

BACKLOG = 4096
SHUTDOWN_DELAY_S = 0.1
SHUTDOWN_GRACE_S = 1.0
"""After the command `shutdown`, connected clients are served this long. Source: transcript 19 (Kestrel: 30 s)."""
_CLOSE_S = 1.0
_DESCRIPTORS_BESIDE = 64
"""Files, listeners and the like, in addition to clients."""


class AddressError(Exception):
    """The broker cannot listen on an address. The message names it and says why."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A listening address: the path of a Unix socket, or host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return net.joined(self.host, self.port)


def parse_address(text: str) -> ListenAddress:
    """`HOST:PORT`, `[v6]:PORT` or `unix:PATH`. Raises ValueError."""
    if text.startswith("unix:"):
        if not text[5:] or len(os.fsencode(text[5:])) > 107:
            raise ValueError(f"{text!r}: a Unix socket's path has 1 to 107 bytes")
        return ListenAddress(path=text[5:])
    found = net.host_and_port(text)
    if found is None:
        raise ValueError(f"{text!r} is neither HOST:PORT, with an IPv6 address in brackets, nor unix:PATH")
    return ListenAddress(host=found[0], port=found[1])


class BrokerServer:
    """Serves one broker on some addresses until it is stopped."""

    def __init__(self, broker: Broker, addresses: list[ListenAddress]) -> None:
        self.broker = broker
        self.stopping = asyncio.Event()
        self._addresses = addresses
        self._listeners: list[asyncio.AbstractServer] = []
        self._paths: list[str] = []
        self._sessions: set[Session] = set()
        self._silent: OrderedDict[Session, None] = OrderedDict()  # TCP connections without a command; oldest first
        self._remote = 0  # TCP connections
        self._limit = 0
        self._deserted = asyncio.Event()
        self._deserted.set()
        self._watching: asyncio.TimerHandle | None = None

    async def start(self) -> list[str]:
        """Listens on all addresses and returns them with their actual ports. Raises AddressError."""
        found = []
        loop = self.broker.loop
        for address in self._addresses:
            for sock in await self._bind(address):
                if sock.family == socket.AF_UNIX:
                    self._listeners.append(await loop.create_unix_server(self._session, sock=sock, backlog=BACKLOG))
                    found.append(f"unix:{address.path}")
                else:
                    self._listeners.append(await loop.create_server(self._session, sock=sock, backlog=BACKLOG))
                    found.append(str(ListenAddress(host=sock.getsockname()[0], port=sock.getsockname()[1])))
        self._limit = self._connection_limit()
        self.broker.on_shutdown = self._shut_down
        self._watch()
        return found

    def _connection_limit(self) -> int:
        """The limit of TCP connections. Half of the descriptors are reserved for a Unix socket, if there is one."""
        wanted = self.broker.options.max_connections
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if allowed == resource.RLIM_INFINITY:
            return wanted
        room = max((allowed - _DESCRIPTORS_BESIDE) // (2 if self._paths else 1), 1)
        if room < wanted and any(not address.path for address in self._addresses):
            log.warning("at most %d TCP connections: the system allows %d open files", room, allowed)
        return min(wanted, room)

    def _session(self) -> Session:
        return Session(self.broker, self, execute)

    def opened(self, session: Session) -> None:
        """Counts a new connection. Above the limit the oldest silent one is closed; otherwise the new one is
        refused."""
        self._sessions.add(session)
        self._deserted.clear()
        if session.is_local:
            return
        self._remote += 1
        self._silent[session] = None
        if self._remote > self._limit:
            oldest = next(iter(self._silent))
            if oldest is session:
                self.broker.tell_crowded(f"{session.peer} is refused", self._limit)
                session.fail("too many connections")
            else:
                del self._silent[oldest]
                self.broker.tell_crowded(f"{oldest.peer}, which has sent no command yet, is disconnected", self._limit)
                oldest.end(b"")

    def spoke(self, session: Session) -> None:
        self._silent.pop(session, None)

    def lost(self, session: Session) -> None:
        self._sessions.discard(session)
        self._silent.pop(session, None)
        self._remote -= not session.is_local
        if not self._sessions:
            self._deserted.set()

    async def _bind(self, address: ListenAddress) -> list[socket.socket]:
        """Bound sockets. A name may have several addresses, which then share the port."""
        try:
            if address.path:
                return [self._bind_unix(address.path)]
            infos = await self.broker.loop.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            socks: list[socket.socket] = []
            for family, kind, protocol, _, where in dict.fromkeys(infos):
                sock = socket.socket(family, kind, protocol)
                socks.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                port = socks[0].getsockname()[1] if len(socks) > 1 else where[1]
                sock.bind((where[0], port, *where[2:]))
            return socks
        except OSError as exc:
            raise AddressError(f"cannot listen on {address}: {exc.strerror or exc}") from exc

    def _bind_unix(self, path: str) -> socket.socket:
        """A socket to which only this user can connect. Replaces the socket of a dead broker, not of a running one."""
        try:
            stale = stat.S_ISSOCK(os.lstat(path).st_mode)
        except FileNotFoundError:
            stale = False
        if stale:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    Path(path).unlink()
        sock = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)
        try:
            sock.bind(path)
        except BaseException:
            sock.close()
            raise
        finally:
            os.umask(mask)
        self._paths.append(path)
        return sock

    def _watch(self) -> None:
        timeout_s = self.broker.config.client_timeout
        loop = self.broker.loop
        self._watching = loop.call_later(min(1.0, timeout_s / 8) if timeout_s else 1.0, self._watch)
        quiet_since_s = loop.time() - timeout_s if timeout_s else None
        for session in list(self._sessions):
            session.check(quiet_since_s)

    def _shut_down(self) -> None:
        """The command `shutdown`: waiters get END, new clients are refused, connected ones have a moment."""
        log.warning("a client requested the shutdown")
        self.broker.loop.call_later(SHUTDOWN_DELAY_S, self._close_listeners)
        self.broker.loop.call_later(SHUTDOWN_DELAY_S, self.broker.queues.evict)
        self.broker.loop.call_later(SHUTDOWN_DELAY_S + SHUTDOWN_GRACE_S, self.stopping.set)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        for path in self._paths:
            Path(path).unlink(missing_ok=True)
        self._paths = []

    async def stop(self) -> None:
        """Stops in order: no new clients; waiters get END; answered commands are on disk; stored ones are answered."""
        self._close_listeners()
        if self._watching is not None:
            self._watching.cancel()
        self.broker.queues.evict()
        for session in list(self._sessions):
            session.stop()
        await self.broker.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._deserted.wait()
        except TimeoutError:
            log.warning("%d clients have not read their last answers", len(self._sessions))
