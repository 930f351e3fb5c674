"""The outermost callable: gives each request its id, guards it, turns errors into problems, writes its one log line."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.access.gate import Gate
from gateway.api.access.guard import Guard
from gateway.api.context import RequestContext
from gateway.api.exchange import ClientDisconnected, problem_answer, respond
from gateway.api.metrics.meter import Traffic
from gateway.client_connection import EXTENSION, ClientConnection
from gateway.common import logs
from gateway.errors import GatewayError, Internal
from gateway.nonce import nonce

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]{0,127}")
_LEASE = re.compile(r"(?<=/leases/)[^/]{9,}")
LOGGED_PATH: Final = 1024
"""Characters of a path in a log line."""
_QUIET = frozenset({"livez", "readyz"})


READ_S: Final = 0.0004
"""The charge for reading a request and writing its answer, in no step that is charged to its tenant.

Measured: 0.2 ms on a connection that is kept, 0.7 ms on a new one.
"""


class Edge:
    """Wraps the router. on_idle: called each time no request is in progress any more.

    gate: answers to callers that are not admitted wait there for their turn. root_path: the path under which a proxy
    publishes the gateway. The proxy may pass it on or remove it; if it is passed on, it is removed here.
    """

    def __init__(
        self, app: ASGIApp, guard: Guard, on_idle: Callable[[], None], *, gate: Gate | None = None, root_path: str = ""
    ) -> None:
        self._app = app
        self._gate = gate or Gate()
        self._root_path = root_path
        self._guard = guard
        self._on_idle = on_idle
        self.traffic = Traffic()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        context = RequestContext(_request_id(scope["headers"]), self._root_path)
        context.put_into(scope)
        served = self._serve(scope, receive, send, context)
        return self._charged(served, context) if self._gate.time.tenanted else served

    async def _charged(self, served: Awaitable[None], context: RequestContext) -> None:
        loop_time = self._gate.time
        try:
            await loop_time.charged(served, lambda: context.account)
        finally:
            loop_time.charge(context.account, READ_S)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> None:
        started_s = time.perf_counter()
        client: ClientConnection = scope["extensions"][EXTENSION]
        request_id = client.request_id = context.id
        root_path = self._root_path
        if root_path and (scope["path"] + "/").startswith(root_path + "/"):
            scope["path"] = scope["path"].removeprefix(root_path) or "/"
        status = 0
        code = ""

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                client.tenant = context.account
                message["headers"] += context.headers()
            await send(message)

        traffic = self.traffic
        traffic.under_way += 1
        try:
            self._guard.check(scope)
            await self._app(scope, receive, send_with_id)
        except ClientDisconnected:
            code = "client-gone"
        except GatewayError as exc:
            code = exc.code
            if context.caller is None:
                await self._gate.enter(context.account)
            await respond(send_with_id, problem_answer(exc, request_id, context.caller))
        except Exception:
            log.exception("request %s failed", request_id)
            code = Internal.code
            if status:
                raise
            await respond(
                send_with_id,
                problem_answer(Internal("the gateway failed; its log has the cause under this request id"), request_id),
            )
        finally:
            traffic.answered[status // 100] += 1
            traffic.under_way -= 1
            if not traffic.under_way:
                self._on_idle()
            if log.isEnabledFor(logging.INFO) and context.operation not in _QUIET:
                _log_request(scope, context, status, code, started_s)


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's id if it may appear in a log, `Request-Id` before `X-Request-Id`; otherwise a new one."""
    found = b""
    for name, value in headers:
        if name == b"request-id" or (name == b"x-request-id" and not found):
            found = value
    return found.decode() if _REQUEST_ID.fullmatch(found) else nonce()[:8].hex()


def _log_request(scope: Scope, context: RequestContext, status: int, code: str, started_s: float) -> None:
    """Writes the canonical line: the request and its outcome; never a body, and no lease id."""
    fields: dict[str, object] = {
        "id": context.id,
        "method": scope["method"],
        "path": _without_secrets(scope["path"][:LOGGED_PATH]),
        "status": status,
        "ms": round((time.perf_counter() - started_s) * 1000, 1),
    }
    if context.caller is not None and context.caller.name:
        fields["key"] = context.caller.name
    if code:
        fields["code"] = code
    logs.info(log, "request", fields)


def _without_secrets(path: str) -> str:
    """The path with only 8 characters of a lease id, enough to tell leases apart: a whole id can settle the job."""
    return _LEASE.sub(lambda found: f"..{found[0][16:24]}..", path) if "/leases/" in path else path
