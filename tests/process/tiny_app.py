"""A small ASGI application for the tests of the HTTP server and of the processes. /seen shows what it has seen."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.common.shares import Shares
from gateway.fairness.loop_time import LoopTime
from gateway.request import EXTENSION


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """As in gateway.app."""

    index: int
    boot_id: str
    run_dir: Path
    lease_key: bytes
    kestrel: tuple[str, ...]
    tenanted: bool
    cluster_secrets: tuple[bytes, ...]
    worker_socket: str = ""


class TinyApp:
    """Routes by path; see the tests for what each is for. on_...: a test's own route."""

    on_large: Any
    on_endless: Any
    on_failing: Any

    def __init__(self, settings: Any, context: Any) -> None:
        self.settings = settings
        self.buffers = Shares(settings.max_buffer_bytes)
        self.loop_time = LoopTime(tenanted=False)
        self.context = context
        self.draining = asyncio.Event()
        self.parked = 0
        self.counts: dict[str, int] = {}

    def begin_drain(self) -> None:
        """Answers parked requests."""
        self.draining.set()

    async def reload(self) -> None:
        """Counts how often it was called."""
        self.count("reloads")

    async def drained(self) -> None:
        """Waits for the parked requests."""
        while self.parked:
            await asyncio.sleep(0.005)

    def count(self, name: str) -> None:
        """Adds one to a count that /seen shows."""
        self.counts[name] = self.counts.get(name, 0) + 1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        route = getattr(self, "on_" + scope["path"].strip("/").replace("/", "_"), None)
        if route is None:
            await answer(send, 404, b"no such path")
        else:
            await route(scope, receive, send)

    async def on_echo(self, scope: Any, receive: Any, send: Any) -> None:
        """The request's body."""
        await answer(send, 200, await body_of(receive))

    async def on_pid(self, scope: Any, receive: Any, send: Any) -> None:
        """The worker's process id."""
        await answer(send, 200, b"%d" % os.getpid())

    async def on_seen(self, scope: Any, receive: Any, send: Any) -> None:
        """The counters."""
        await answer(send, 200, " ".join(f"{name}={count}" for name, count in sorted(self.counts.items())).encode())

    async def on_headers(self, scope: Any, receive: Any, send: Any) -> None:
        """The headers as they were read, after the body."""
        await body_of(receive)
        await answer(send, 200, b"\n".join(b"%b: %b" % header for header in scope["headers"]))

    async def on_early(self, scope: Any, receive: Any, send: Any) -> None:
        """413 without reading the body."""
        await answer(send, 413, b"too large")

    async def on_fail(self, scope: Any, receive: Any, send: Any) -> None:
        """A defect."""
        raise ValueError("on purpose")

    async def on_fail_late(self, scope: Any, receive: Any, send: Any) -> None:
        """A defect after the first bytes."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        raise ValueError("on purpose")

    async def on_bad_header(self, scope: Any, receive: Any, send: Any) -> None:
        """A header that would split the response."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nb: c")]})
        await send({"type": "http.response.body", "body": b"never"})

    async def on_park(self, scope: Any, receive: Any, send: Any) -> None:
        """Waits for the client's end or for the drain; counts how it ended."""
        client = scope["extensions"][EXTENSION]
        gone = asyncio.Event()
        remove = client.on_gone(gone.set)
        self.parked += 1
        self.count("parked")
        ends = [asyncio.create_task(gone.wait()), asyncio.create_task(self.draining.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self.count("gone" if client.gone else "drained")
            await answer(send, 204, b"")
            self.count("reached" if client.reached else "unreached")
        finally:
            self.parked -= 1
            remove()
            for task in ends:
                task.cancel()

    async def on_park_plain(self, scope: Any, receive: Any, send: Any) -> None:
        """The same with nothing but plain ASGI."""
        self.count("parked")
        while (await receive())["type"] != "http.disconnect":
            pass
        self.count("gone")

    async def on_unread(self, scope: Any, receive: Any, send: Any) -> None:
        """Parks without reading the body that came."""
        await self.on_park(scope, receive, send)

    async def on_drip(self, scope: Any, receive: Any, send: Any) -> None:
        """A chunked response in three pieces."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"three"})


async def body_of(receive: Any) -> bytes:
    """The whole body; raises ConnectionError when the client goes first."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client is gone")
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


async def answer(send: Any, status: int, body: bytes) -> None:
    """One complete response."""
    headers = [(b"content-length", b"%d" % len(body))] if status != 204 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def create_app(settings: Any, context: Any) -> TinyApp:
    """What gateway.app:create_app is in the real worker."""
    return TinyApp(settings, context)


class StubbornApp(TinyApp):
    """Does not let its parked requests go."""

    def begin_drain(self) -> None:
        """Does nothing."""


def create_stubborn_app(settings: Any, context: Any) -> StubbornApp:
    """An application whose drain never ends by itself."""
    return StubbornApp(settings, context)


def create_broken_app(settings: Any, context: Any) -> TinyApp:
    """An application that cannot be made."""
    raise ValueError("on purpose")


def create_late_app(settings: Any, context: Any) -> Any:
    """The gateway's own application, which is not made before the file `hold` in the data directory is removed."""
    from gateway.app import create_app as create_gateway

    while (settings.data / "hold").exists():
        time.sleep(0.01)
    return create_gateway(settings, context)
