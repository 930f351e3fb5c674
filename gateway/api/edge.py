"""The edge: gives each request its id, checks Host and Origin, turns errors into problems, and writes one log line.

Requests to `/livez` and `/readyz` have no log line.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from gateway.api.access.gate import Gate
from gateway.api.access.guard import Guard
from gateway.api.context import RequestContext, RequestTrace, Serve
from gateway.api.cors import Cors
from gateway.api.exchange import problem_answer, respond
from gateway.api.metrics.meter import Traffic
from gateway.common import logs
from gateway.errors import GatewayError, Internal
from gateway.leases.open_leases import short_id
from gateway.nonce import new_request_id
from gateway.request import ClientDisconnected, HttpRequest

log = logging.getLogger(__name__)

_ID_HEADERS = frozenset({b"request-id", b"x-request-id"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]{0,127}")
_LEASE = re.compile(r"(?<=/leases/)[^/]{9,}")
LOGGED_PATH: Final = 1024
"""Characters of a path in a log line."""
LOGGED_ID: Final = 128
"""Characters of a job's id: an event may bring a long one."""
_FAILED: Final = 400
_QUIET = frozenset({"livez", "readyz"})


READ_S: Final = 0.0004
"""The charge for reading a request and writing its answer, in no step that is charged to its tenant.

Measured: 0.2 ms on a connection that is kept, 0.7 ms on a new one.
"""


class Edge:
    """Surrounds the handlers: what every request passes, whichever server it comes from.

    serve: finds and runs the request's operation. on_idle: called each time no request is in progress any more.
    gate: answers to callers that are not admitted wait there for their turn. root_path: the path under which a proxy
    publishes the gateway. The proxy may pass it on or remove it; if it is passed on, it is removed here. cors: None if
    no page of another origin may call. expected_level: of the log line of a request with a status below 400. trace:
    begins the trace of a request with that id; None without traces.
    """

    def __init__(
        self,
        serve: Serve,
        guard: Guard,
        on_idle: Callable[[], None],
        *,
        gate: Gate | None = None,
        root_path: str = "",
        cors: Cors | None = None,
        expected_level: int = logging.INFO,
        trace: Callable[[HttpRequest, str], RequestTrace] | None = None,
    ) -> None:
        self._serve = serve
        self._gate = gate or Gate()
        self._root_path = root_path
        self._guard = guard
        self._cors = cors
        self._on_idle = on_idle
        self._expected_level = expected_level
        self._trace = trace
        self.traffic = Traffic()

    def handle(self, request: HttpRequest, serve: Serve | None = None) -> Coroutine[Any, Any, None]:
        """Answers one request. serve: instead of the usual way to find and run the operation."""
        context = RequestContext(request, _request_id(request), self._root_path)
        request.request_id = context.id
        if self._trace is not None:
            context.trace = self._trace(request, context.id)
        answered = self._answered(context, serve or self._serve)
        return self._gate.time.charged(answered, lambda: context.account, READ_S)

    async def _answered(self, context: RequestContext, serve: Serve) -> None:
        started_s = time.perf_counter()
        request = context.request
        root_path = self._root_path
        if root_path and (request.path + "/").startswith(root_path + "/"):
            request.path = request.path.removeprefix(root_path) or "/"
        code = ""
        traffic = self.traffic
        traffic.under_way += 1
        try:
            preflight = self._cors.look_at(context) if self._cors is not None else None
            if preflight is not None:
                await respond(context, preflight)
                return
            self._guard.check(request)
            await serve(context)
        except ClientDisconnected:
            code = "client-gone"
        except GatewayError as exc:
            code = exc.code
            if context.caller is None:
                await self._gate.enter(context.account)
            await respond(context, problem_answer(exc, context.id, context.caller))
        except Exception:
            log.exception("request %s failed", context.id)
            code = Internal.code
            if context.status:
                raise
            await respond(
                context,
                problem_answer(Internal("the gateway failed; its log has the cause under this request id"), context.id),
            )
        finally:
            seconds = time.perf_counter() - started_s
            traffic.ended(context.operation, context.status, code, seconds)
            if not traffic.under_way:
                self._on_idle()
            if context.trace is not None:
                context.trace.ended(context.job_id, context.size, context.status, code)
            level = self._expected_level if context.status < _FAILED and not code else logging.INFO
            if log.isEnabledFor(level) and context.operation not in _QUIET:
                _log_request(level, context, code, seconds)


def _request_id(request: HttpRequest) -> str:
    """The client's id if it may appear in a log, `Request-Id` before `X-Request-Id`; otherwise a new one."""
    if request.names.isdisjoint(_ID_HEADERS):
        return new_request_id()
    found = b""
    for name, value in request.headers:
        if name == b"request-id" or (name == b"x-request-id" and not found):
            found = value
    return found.decode() if _REQUEST_ID.fullmatch(found) else new_request_id()


def _log_request(level: int, context: RequestContext, code: str, seconds: float) -> None:
    """Writes the canonical line: the request and its outcome; never a body, and no lease id."""
    path = context.request.path[:LOGGED_PATH]
    fields: dict[str, object] = {
        "id": context.id,
        "method": context.request.method,
        "path": path if "/leases/" not in path else _LEASE.sub(_shortened, path),
        "status": context.status,
        "ms": int(seconds * 10_000 + 0.5) / 10,  # `round` takes six times as long
    }
    if client := context.request.client:
        fields["client"] = client
    if (caller := context.caller) is not None and caller.name:
        fields["key"] = caller.name
        if caller.tenant:
            fields["tenant"] = caller.tenant
    if context.queue:
        fields["queue"] = context.queue
        if context.job_id:
            fields["job"] = context.job_id[:LOGGED_ID]
        if context.size:
            fields["bytes"] = context.size
        if context.jobs_stored is not None:
            fields["stored"] = context.jobs_stored
        if context.waited_s is not None:
            fields["wait_ms"] = int(context.waited_s * 1000)
    if code:
        fields["code"] = code
    if context.trace is not None and context.trace.trace_id:
        fields["trace"] = context.trace.trace_id
    logs.request(log, level, fields)


def _shortened(lease_id: re.Match[str]) -> str:
    """A part of a lease id, enough to tell leases apart: a whole id can settle the job."""
    return f"..{short_id(lease_id[0])}.."
