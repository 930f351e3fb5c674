"""The gateway under plain uvicorn, instead of its own HTTP server: `serve --app tests.lab.under_uvicorn:create_app`.

uvicorn has no limits for heads and slow clients, closes nothing during a drain, and answers malformed requests itself.
Everything that the application does is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import uvicorn

from gateway.app import Gateway, WorkerContext
from gateway.app import create_app as create_gateway
from gateway.http.server import GatewayServer
from gateway.settings import Settings

__all__ = ["WorkerContext", "create_app"]

FINISH_S = 0.5


class UvicornServer:
    """What a worker needs of a server, done by uvicorn."""

    server: uvicorn.Server
    main: asyncio.Task[None]

    def __init__(self, app: Gateway, settings: Settings, *_: object) -> None:
        config = uvicorn.Config(
            app, http="httptools", ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
            timeout_keep_alive=int(settings.keep_alive_s), timeout_graceful_shutdown=1, proxy_headers=False,
        )  # fmt: skip
        self.server = uvicorn.Server(config)

    async def start(self, listener: socket.socket) -> None:
        """Starts the application and accepts connections."""
        server = self.server
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup(sockets=[listener])
        self.main = asyncio.create_task(server.main_loop())

    def begin_drain(self) -> None:
        """Does nothing: uvicorn cannot tell its clients."""

    def close_listener(self) -> None:
        """Stops accepting connections."""
        for each in self.server.servers:
            each.close()

    async def answered(self, within_s: float) -> None:
        """Returns when the requests in progress have ended, or when the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while tasks := self.server.server_state.tasks:
                    await asyncio.wait(list(tasks))

    async def stop(self) -> None:
        """Closes the connections and ends the application."""
        self.server.should_exit = True
        await self.main
        await self.server.shutdown()


def create_app(settings: Any, context: Any) -> Gateway:
    """The gateway as the worker makes it; the worker's server is uvicorn from now on."""
    for name in ("__init__", "start", "begin_drain", "close_listener", "answered", "stop"):
        setattr(GatewayServer, name, getattr(UvicornServer, name))
    return create_gateway(settings, context)
