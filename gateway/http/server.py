"""The HTTP server of one worker: serves one inherited socket until it is stopped, in a fixed order.

Owns the listener and the connections' shared state. process/worker.py decides when to stop. Of uvicorn it uses the
configuration, the TLS context and the lifespan.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from email.utils import formatdate
from typing import Any, Final, cast

import uvicorn
from uvicorn.lifespan.on import LifespanOn

from gateway.common.net import BACKLOG
from gateway.common.shares import Shares
from gateway.errors import Draining, GatewayError
from gateway.fairness.loop_time import LoopTime
from gateway.http import asgi, tcp
from gateway.http.connection import GatewayProtocol
from gateway.http.cycle import Cycle, Handle
from gateway.http.idle import Idle
from gateway.http.listener import Listener
from gateway.http.starts import RequestStarts
from gateway.http.state import Limits, ServerState
from gateway.request import RequestApplication
from gateway.settings import Settings

log = logging.getLogger(__name__)

# Each step of the stop waits at most this long for responses and their last bytes.
FINISH_S: Final = 0.1
# The time that a client gets, once no lease is left, for the rest of a body or for reading its answer.
CLIENT_S: Final = 0.8
# The least time for the answer to a body that ends so: what has arrived of it is stored first. With the three steps of
# the stop it is less than supervisor.END_S, after which a worker is killed.
CUT_S: Final = 0.3


class ApplicationStartError(Exception):
    """The application's start-up failed and was logged."""


class GatewayServer:
    """An HTTP server with `start` and `stop`. uvicorn makes the TLS context and runs the lifespan."""

    def __init__(self, app: Any, settings: Settings, buffers: Shares, loop_time: LoopTime) -> None:
        """app: an ASGI application. If it is a RequestApplication, too, it gets its requests without ASGI messages.
        buffers: the memory that the application's requests, and the bytes before them, may use. loop_time: of the
        tenants."""
        limits = Limits(
            header_bytes=settings.max_header_bytes,
            header_timeout_s=settings.header_timeout_s,
            body_timeout_s=settings.body_timeout_s,
            keep_alive_s=settings.keep_alive_s,
            connections=settings.max_connections,
            tcp=tcp.options(settings.tcp_keepalive_s, settings.tcp_user_timeout_s),
        )
        self.config = uvicorn.Config(
            app,
            http=GatewayProtocol,  # the server makes it, so uvicorn loads no protocol of its own
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
            ssl_keyfile_password=settings.ssl_keyfile_password or None,
            ssl_ca_certs=str(settings.ssl_ca_certs) if settings.ssl_ca_certs else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if settings.ssl_ca_certs else ssl.CERT_NONE,
        )
        self.server_state = ServerState(Idle(buffers), RequestStarts(loop_time), limits)
        self._clock: asyncio.TimerHandle | None = None
        self._listener: Listener | None = None

    async def start(self, listener: socket.socket) -> None:
        """Starts the application, then serves `listener`. Raises ApplicationStartError."""
        self.config.load()
        self.lifespan = LifespanOn(self.config)
        self._tick()
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise ApplicationStartError
        app = self.config.loaded_app
        asgi_state = self.lifespan.state
        self.handle: Handle = (
            app.handle if isinstance(app, RequestApplication) else lambda cycle: asgi.serve(app, cycle, asgi_state)
        )
        self._listener = Listener(listener, self.config.ssl, self._protocol, self.server_state)
        self._listener.start(BACKLOG)

    def _protocol(self) -> GatewayProtocol:
        scheme = "https" if self.config.ssl is not None else "http"
        return GatewayProtocol(self.handle, self.server_state, scheme)

    def begin_drain(self) -> None:
        """From now on each answer is its connection's last, so that clients connect to another instance."""
        self.server_state.draining = True

    def close_listener(self) -> None:
        """Stops accepting connections."""
        if self._listener is not None:
            self._listener.close()

    async def answered(self, within_s: float) -> None:
        """Returns when the requests in progress are answered, or when the time is over.

        Clients that are slow to send their body or to read their answer get CLIENT_S. Then a body that is streamed
        ends, and its client gets an answer.
        """
        loop, state = asyncio.get_running_loop(), self.server_state
        ends, patience_ends = loop.time() + within_s, loop.time() + min(within_s, CLIENT_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s) as limit:
                while any(each.is_ours for each in self._cycles()):
                    await state.change()
                limit.reschedule(patience_ends)
                while self._cycles():
                    await state.change()
        if self._cut_bodies(Draining("the gateway is shutting down")):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(CUT_S, ends - loop.time())):
                    while any(each.is_ours for each in self._cycles()):
                        await state.change()

    async def stop(self) -> None:
        """Stops in order: the listener, requests in progress, the connections, the application. Takes at most three
        times FINISH_S plus the application's own shutdown."""
        self.close_listener()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=FINISH_S)
        for task in list(state.tasks):
            task.cancel()
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=FINISH_S)
        for connection in list(state.connections):
            connection.transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                await state.all_closed()
        await self.lifespan.shutdown()
        if self._clock is not None:
            self._clock.cancel()

    def _cut_bodies(self, error: GatewayError) -> bool:
        """Ends every streamed body that is incomplete. Whether there are any."""
        connections = cast("set[GatewayProtocol]", self.server_state.connections)
        cut = [(each, each.current) for each in connections if each.current is not None and each.current.streams_body]
        cut = [(each, cycle) for each, cycle in cut if not (cycle.is_ours or cycle.started)]
        for connection, _ in cut:
            connection.refuse(error)
        return bool(cut)

    def _cycles(self) -> list[Cycle]:
        connections = cast("set[GatewayProtocol]", self.server_state.connections)
        return [each.current for each in connections if each.current is not None]

    def _tick(self) -> None:
        """Renews the Date header, once a second."""
        now = time.time()
        self.server_state.date_line = b"date: %b\r\n" % formatdate(now, usegmt=True).encode()
        self._clock = asyncio.get_running_loop().call_later(1.0 - now % 1.0, self._tick)
