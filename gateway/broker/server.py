"""The broker as a server: listens, closes idle clients, stops in order."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from pathlib import Path

from gateway.broker.broker import Broker
from gateway.broker.connections import Connections
from gateway.broker.listening import ListenAddress, bind
from gateway.broker.memcache.connection import MemcacheConnection
from gateway.broker.multiplex.connection import MultiplexedConnection
from gateway.common.counted import counted
from gateway.common.multiplex.protocol import FrameConnection
from gateway.common.net import BACKLOG

log = logging.getLogger(__name__)

SHUTDOWN_DELAY_S = 0.1
SHUTDOWN_GRACE_S = 1.0
"""After the command `shutdown`, connected clients are served this long. Source: transcript 19 (Kestrel: 30 s)."""
_CLOSE_S = 1.0
_DESCRIPTORS_BESIDE = 64
"""Files, listeners and the like, in addition to clients."""


class BrokerServer:
    """Serves one broker on some addresses until it is stopped."""

    def __init__(self, broker: Broker, addresses: list[ListenAddress], worker_socket: str = "") -> None:
        """worker_socket: the path of the socket for multiplexed connections; empty: there is none."""
        self.broker = broker
        self.stopping = asyncio.Event()
        self._addresses = addresses
        self._worker_socket = worker_socket
        self._connections = Connections(broker.counters, broker.client_log)
        self._listeners: list[asyncio.AbstractServer] = []
        self._paths: list[str] = []
        self._watching: asyncio.TimerHandle | None = None

    async def start(self) -> list[str]:
        """Listens on all addresses and returns them with their actual ports. Raises AddressError."""
        found = []
        loop = self.broker.loop
        self._connections.limit = self._connection_limit()
        for address in self._addresses:
            for sock in await bind(address, loop):
                if sock.family == socket.AF_UNIX:
                    self._paths.append(address.path)
                    self._listeners.append(await loop.create_unix_server(self._connect, sock=sock, backlog=BACKLOG))
                    found.append(f"unix:{address.path}")
                else:
                    self._listeners.append(await loop.create_server(self._connect, sock=sock, backlog=BACKLOG))
                    found.append(str(ListenAddress(host=sock.getsockname()[0], port=sock.getsockname()[1])))
        if self._worker_socket:
            for sock in await bind(ListenAddress(path=self._worker_socket), loop):
                self._paths.append(self._worker_socket)
                self._listeners.append(await loop.create_unix_server(self._connect_worker, sock=sock, backlog=BACKLOG))
        self.broker.on_shutdown = self._shut_down
        self._watch()
        return found

    def _connection_limit(self) -> int:
        """The limit of TCP connections. Half of the descriptors are reserved for a Unix socket, if there is one."""
        wanted = self.broker.options.max_connections
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if allowed == resource.RLIM_INFINITY:
            return wanted
        has_path = any(address.path for address in self._addresses)
        room = max((allowed - _DESCRIPTORS_BESIDE) // (2 if has_path else 1), 1)
        if room < wanted and any(not address.path for address in self._addresses):
            log.warning(
                "the broker accepts at most %d TCP connections, because the system allows %d open files; "
                "raise the limit (ulimit -n, LimitNOFILE=)",
                room,
                allowed,
            )
        return min(wanted, room)

    def _connect(self) -> MemcacheConnection:
        return MemcacheConnection(self.broker, self._connections)

    def _connect_worker(self) -> FrameConnection:
        return MultiplexedConnection(self.broker, self._connections).frames

    def _watch(self) -> None:
        timeout_s = self.broker.config.client_timeout
        loop = self.broker.loop
        self._watching = loop.call_later(min(1.0, timeout_s / 8) if timeout_s else 1.0, self._watch)
        self._connections.check(loop.time() - timeout_s if timeout_s else None)

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
        self._connections.stop()
        await self.broker.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._connections.all_closed()
        except TimeoutError:
            log.warning("%s not read the last answers", counted(len(self._connections), "client has", "clients have"))
