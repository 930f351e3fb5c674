"""The yardstick: the least a Starlette application under uvicorn can do for the same traffic. Run as a process.

`/echo` answers a POST with its own body and a GET with a constant; `/park` waits until a POST to `/wake` lets the
longest-waiting poll go. The uvicorn settings are the gateway's.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.wire import JOB

_parked: deque[asyncio.Future[None]] = deque()


async def post_echo(request: Request) -> Response:
    """The request's body."""
    return Response(await request.body(), media_type="application/json")


async def get_echo(request: Request) -> Response:
    """The benchmark's job, always the same."""
    return Response(JOB, media_type="application/json")


async def park(request: Request) -> Response:
    """Answers when it is this poll's turn."""
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    _parked.append(turn)
    await turn
    return Response(JOB, media_type="application/json")


async def wake(request: Request) -> Response:
    """Lets the poll go that waits longest."""
    await request.body()
    while _parked:
        turn = _parked.popleft()
        if not turn.done():
            turn.set_result(None)
            break
    return Response(b"{}", status_code=201, media_type="application/json")


app = Starlette(
    routes=[
        Route("/echo", post_echo, methods=["POST"]),
        Route("/echo", get_echo, methods=["GET"]),
        Route("/park", park, methods=["GET"]),
        Route("/wake", wake, methods=["POST"]),
        Route("/livez", get_echo, methods=["GET"]),
    ]
)

if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=75,
        backlog=4096,
    )
