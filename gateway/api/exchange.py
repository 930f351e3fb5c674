"""One request and its answer: the values that handlers work with, and what runs a handler.

A handler is `async (Call) -> Answer` and raises GatewayError for every failure. This module knows no queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from starlette.types import Receive, Scope, Send

from gateway.api.access.admission import Admission, check_scopes
from gateway.api.access.budget import SMALL_BYTES, Budget, Reservation
from gateway.api.access.caller import Caller
from gateway.api.context import RequestContext
from gateway.api.request.hints import elsewhere
from gateway.api.request.parameters import Values
from gateway.api.request.prefer import preferences
from gateway.api.specification import OperationSpec
from gateway.common.counted import counted
from gateway.coverage import Covered
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.errors import BadFraming, BodyTooLarge, GatewayError, MethodNotAllowed, Unauthenticated
from gateway.fairness.turns import SLICE_BYTES
from gateway.problem import NOSNIFF, problem_bytes, problem_headers
from gateway.request import Headers, HttpRequest

T = TypeVar("T")

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
NO_STORE: tuple[bytes, bytes] = (b"cache-control", b"no-store")
WORK_BYTES = 256 << 10
"""This many bytes of a body or an answer count as one more request: some milliseconds, whatever the content."""
MAX_CONTROL_BYTES = 65536
"""Limit for bodies without jobs; no valid one comes near it."""


BodyWriter = Callable[[HttpRequest], Awaitable[None]]
"""Writes the body of a response with `HttpRequest.write`, the last piece with `last`. It ends early if the client is
gone."""


@dataclass(slots=True)
class Answer:
    """A response. on_sent: called once it was written, with True if the connection was open.

    write_body: writes the body instead of `body`, if its length is not known; see `chunks`.
    """

    status: int
    body: bytes = b""
    headers: Headers | None = None
    on_sent: Callable[[bool], None] | None = None
    write_body: BodyWriter | None = None


@dataclass(slots=True)
class Call:
    """An admitted request with a valid query. tenant: whose queues it is about. reservation: its share of the worker's
    connections and memory."""

    request: HttpRequest
    context: RequestContext
    spec: OperationSpec
    query: Values
    caller: Caller
    tenant: str
    catalog: Catalog
    reservation: Reservation
    admission: Admission

    def worked(self, count: int, a_request: int) -> None:
        """Counts the request as one more for each `a_request` of the `count` bytes or queues that it processed."""
        if count >= a_request:
            self.admission.charge(self.caller, count // a_request)

    def result(self, of: Covered[T | GatewayError]) -> T:
        """The result; the answer shows how many servers took part, if not all did. Raises the result if it is an
        error."""
        self.context.covered_by(of.coverage)
        if isinstance(of.result, GatewayError):
            raise of.result
        return of.result

    @property
    def root(self) -> str:
        """The prefix of the path in every URL of an answer."""
        return self.context.url_root

    def path(self, name: str) -> str:
        """A path parameter, decoded but not validated."""
        return self.context.path_params[name]

    def queue(self) -> Queue:
        """The caller's queue that the path names. Raises InvalidName, ForbiddenQueue."""
        return self.named(self.context.path_params["queue"])

    def named(self, name: str) -> Queue:
        """The caller's queue or child of that name. Raises InvalidName, ForbiddenQueue."""
        queue = self.catalog.queue(self.tenant, name)
        if self.caller.queues:
            self.caller.check_queue(queue.name)
        return queue

    def check_again(self, names: Iterable[str]) -> None:
        """Whether the key may still do this with the queues. Raises Unauthenticated, ForbiddenScope, ForbiddenQueue."""
        caller = self.admission.identify(self.request.headers, self.spec.scopes)
        check_scopes(caller, self.spec.scopes)
        if caller.tenant != self.caller.tenant:
            raise Unauthenticated("the key now belongs to another tenant; send the request again", invalid=True)
        for name in names:
            caller.check_queue(name)

    def header(self, name: bytes) -> str | None:
        """The first header with the name, which is in lower case."""
        if name not in self.request.names:
            return None
        for key, value in self.request.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    def headers(self, name: bytes) -> list[str]:
        """Every header with the name, which is in lower case."""
        if name not in self.request.names:
            return []
        return [value.decode("latin-1") for key, value in self.request.headers if key == name]

    @property
    def accept(self) -> str:
        """The value of Accept; several headers are joined into one list."""
        if b"accept" not in self.request.names:
            return ""
        return b",".join([value for key, value in self.request.headers if key == b"accept"]).decode("latin-1")

    @property
    def preferences(self) -> Mapping[str, str]:
        """See gateway.api.request.prefer."""
        return preferences(self.request.headers) if b"prefer" in self.request.names else {}

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: it is longer than `limit_bytes`; raised before reading if Content-Length is given.
            TooManyBytes: there is no memory for it; raised as early.
            ClientDisconnected: the client disconnected before its end.
        """
        length = self.header(b"content-length")
        if length is not None:
            if not (length.isascii() and length.isdigit()):
                raise BadFraming("Content-Length is not a number of bytes; use only digits")
            if int(length) > limit_bytes:
                size_text = counted(int(length), "byte")
                raise BodyTooLarge(f"the body has {size_text}, which is above the maximum of {limit_bytes}")
            self.reservation.more(int(length))
        chunk, more = await self.request.body()
        size = len(chunk)
        body = io.BytesIO() if more else None
        while True:
            if size > limit_bytes:
                raise BodyTooLarge(f"the body has more than the maximum of {counted(limit_bytes, 'byte')}")
            if length is None and chunk:
                self.reservation.more(len(chunk))
            if body is None or not more:
                break
            body.write(chunk)
            if size > SLICE_BYTES:
                await self.reservation.turn(len(chunk))
            chunk, more = await self.request.body()
            size += len(chunk)
        self.worked(size, WORK_BYTES)
        if body is None:
            return chunk
        body.write(chunk)
        return body.getvalue()  # the buffer itself: joining 8 MiB at the end would block the loop for 10 ms

    async def json(self, limit_bytes: int = MAX_CONTROL_BYTES) -> dict[str, Any]:
        """The body as a valid JSON object of the contract. Raises InvalidBody, BodyTooLarge."""
        return self.spec.body(await self.read(limit_bytes))


Handler = Callable[[Call], Awaitable[Answer]]


class Operation:
    """Runs one operation of the contract for callers that may use it."""

    def __init__(
        self, spec: OperationSpec, handler: Handler, admission: Admission, budget: Budget, catalog: Catalog
    ) -> None:
        self.spec = spec
        self._budget = budget
        self._handler = handler
        self._admission = admission
        self._catalog = catalog

    async def run(self, context: RequestContext) -> None:
        """Answers one request. Raises GatewayError."""
        spec, budget = self.spec, self._budget
        caller = self._admission.identify(context.request.headers, spec.scopes)
        context.account = caller.tenant
        self._admission.admit(caller, spec.scopes)
        context.caller = caller
        if (turn := budget.gate.turn(caller.tenant)) is not None:
            await turn
        reservation = budget.admit(caller.tenant) if spec.scopes else Reservation(budget, caller.tenant)
        try:
            call = self._call(context, caller, reservation)
            answer = await self._handler(call)
            reached = False
            try:
                if len(answer.body) > SMALL_BYTES:
                    call.worked(len(answer.body), WORK_BYTES)
                    reservation.more(len(answer.body))
                await respond(context, answer, reservation)
                reached = context.request.reached
            finally:
                if answer.on_sent is not None:
                    answer.on_sent(reached)
        finally:
            reservation.end()

    def _call(self, context: RequestContext, caller: Caller, reservation: Reservation) -> Call:
        """What the handler gets. Raises GatewayError."""
        spec, request = self.spec, context.request
        query = spec.query(request.query)
        if request.head_bytes > SMALL_BYTES:
            reservation.more(request.head_bytes)
        tenant = caller.tenant_of(query["tenant"], self._catalog.tenanted) if spec.of_tenant else caller.tenant
        return Call(request, context, spec, query, caller, tenant, self._catalog, reservation, self._admission)


class Resource:
    """One path: one operation per method. Answers other methods with 405, and HEAD like GET where that is harmless.

    template: the path as written in the contract; set by the route table.
    """

    template = ""

    def __init__(self, *, head: bool = True, **operations: Operation) -> None:
        self._operations = {method.upper(): operation for method, operation in operations.items()}
        if head and "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self.allow = ", ".join(sorted(self._operations))

    @property
    def operations(self) -> list[tuple[str, str]]:
        """The method and the operationId of each operation. HEAD and OPTIONS come first."""
        found = [(method, operation.spec.id) for method, operation in self._operations.items()]
        return sorted(found, key=lambda each: each[0] not in {"HEAD", "OPTIONS"})

    @property
    def methods(self) -> frozenset[str]:
        return frozenset(self._operations)

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Called by Starlette's router, for a request of an ASGI server."""
        context = RequestContext.of(scope)
        context.path_params = scope["path_params"]
        await self.run(context)

    def run(self, context: RequestContext) -> Awaitable[None]:
        """Answers one request. Raises GatewayError."""
        method = context.request.method
        operation = self._operations.get(method)
        if operation is None:
            hint = elsewhere(method, self.template, context.url_root)
            raise MethodNotAllowed(f"this path accepts only {self.allow}{'; ' if hint else ''}{hint}", self.allow)
        context.operation = operation.spec.id
        return operation.run(context)


async def respond(context: RequestContext, answer: Answer, reservation: Reservation | None = None) -> None:
    """Writes the answer, with the headers that every answer has.

    reservation: what the request holds. A large answer is written in pieces, with other work between them.
    """
    request = context.request
    request.tenant = context.account
    context.status = answer.status
    headers = [NOSNIFF, *(answer.headers or ()), *context.headers()]
    if answer.write_body is not None:
        await request.begin(answer.status, headers)
        if request.method == "HEAD":
            await request.write(b"", last=True)
        else:
            await answer.write_body(request)
        return
    body = answer.body
    if reservation is None or len(body) <= SLICE_BYTES:
        await request.respond(answer.status, headers, body)
        return
    await request.respond(answer.status, headers, body[:SLICE_BYTES], length=len(body))
    for at in range(SLICE_BYTES, len(body), SLICE_BYTES):
        await reservation.turn()
        await request.write(body[at : at + SLICE_BYTES], last=at + SLICE_BYTES >= len(body))


def chunks(source: AsyncGenerator[bytes]) -> BodyWriter:
    """Writes each value of `source` as it comes. The source is closed at its end and when the client is gone."""

    async def write(request: HttpRequest) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with contextlib.aclosing(source), asyncio.timeout(None) as until_gone:
                forget = request.on_gone(lambda: until_gone.reschedule(loop.time()))
                try:
                    async for chunk in source:
                        await request.writable()
                        await request.write(chunk, last=False)
                    await request.write(b"", last=True)
                finally:
                    forget()

    return write


def json_answer(value: object, status: int = 200, headers: Headers | None = None) -> Answer:
    """A JSON answer; dataclasses are objects."""
    return Answer(status, orjson.dumps(value), [JSON, NO_STORE, *(headers or ())])


def failure_of_one(error: GatewayError, *, operator: bool) -> dict[str, object]:
    """The error of one of the many jobs or leases of a request. operator: see GatewayError.detail_for."""
    return {
        "status": error.status,
        "code": error.code,
        "detail": error.detail_for(operator=operator),
        "retryable": error.retryable,
    }


def problem_answer(error: GatewayError, request_id: str, caller: Caller | None = None) -> Answer:
    """The problem (RFC 9457) that shows the error to `caller`. None: to any caller."""
    body = problem_bytes(error, request_id, operator=caller is not None and caller.sees_deployment)
    headers = problem_headers(error)
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    return Answer(error.status, body, headers)
