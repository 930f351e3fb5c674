"""One request and its answer: the values that handlers work with, and the ASGI callable that runs a handler.

A handler is `async (Call) -> Answer` and raises GatewayError for every failure. This module knows no queue.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from starlette.types import Receive, Scope, Send

from gateway.api.access.admission import Admission
from gateway.api.access.budget import SMALL_BYTES, Budget, Reservation
from gateway.api.access.caller import Caller
from gateway.api.context import RequestContext
from gateway.api.request.hints import elsewhere
from gateway.api.request.parameters import Values
from gateway.api.specification import OperationSpec
from gateway.client_connection import EXTENSION, ClientConnection
from gateway.coverage import Covered
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.errors import BadFraming, BodyTooLarge, GatewayError, MethodNotAllowed
from gateway.fairness.turns import LARGE_BYTES
from gateway.problem import problem_bytes, problem_headers

T = TypeVar("T")

Headers = list[tuple[bytes, bytes]]

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
NO_STORE: tuple[bytes, bytes] = (b"cache-control", b"no-store")
NOSNIFF: tuple[bytes, bytes] = (b"x-content-type-options", b"nosniff")
WORK_BYTES = 256 << 10
"""This many bytes of a body or an answer count as one more request: some milliseconds, whatever the content."""
MAX_CONTROL_BYTES = 65536
"""Limit for bodies without jobs; no valid one comes near it."""


class ClientDisconnected(Exception):
    """The client disconnected while its body was read. There is nothing to do and no one to answer."""


@dataclass(slots=True)
class Answer:
    """A response. on_sent: called once it was written, with True if the connection was open."""

    status: int
    body: bytes = b""
    headers: Headers | None = None
    on_sent: Callable[[bool], None] | None = None


@dataclass(slots=True)
class Call:
    """An admitted request with a valid query. client: the connection on which it came.

    reservation: its share of the worker's connections and memory.
    """

    scope: Scope
    context: RequestContext
    receive: Receive
    spec: OperationSpec
    query: Values
    client: ClientConnection
    caller: Caller
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
        value: str = self.scope["path_params"][name]
        return value

    def queue(self) -> Queue:
        """The caller's queue that the path names. Raises InvalidName, ForbiddenQueue."""
        queue = self.catalog.queue(self.caller.tenant, self.path("queue"))
        self.caller.check_queue(queue.name)
        return queue

    def header(self, name: bytes) -> str | None:
        """The first header with the name, which is in lower case."""
        for key, value in self.scope["headers"]:
            if key == name:
                text: str = value.decode("latin-1")
                return text
        return None

    def headers(self, name: bytes) -> list[str]:
        """Every header with the name, which is in lower case."""
        return [value.decode("latin-1") for key, value in self.scope["headers"] if key == name]

    @property
    def accept(self) -> str:
        """The value of Accept; several headers are joined into one list."""
        return ",".join(self.headers(b"accept"))

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
                raise BadFraming("Content-Length is not a number")
            if int(length) > limit_bytes:
                raise BodyTooLarge(f"the body has {length} bytes, which is above the maximum of {limit_bytes}")
            self.reservation.more(int(length))
        body = io.BytesIO()
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > limit_bytes:
                raise BodyTooLarge(f"the body has more than the maximum of {limit_bytes} bytes")
            if length is None and chunk:
                self.reservation.more(len(chunk))
            if not message.get("more_body", False):
                self.worked(size, WORK_BYTES)
                if size == len(chunk):
                    return chunk
                body.write(chunk)
                return body.getvalue()  # the buffer itself: joining 8 MiB at the end would block the loop for 10 ms
            body.write(chunk)
            if size > LARGE_BYTES:
                await self.reservation.turn(len(chunk))

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

    async def run(self, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises GatewayError."""
        caller = self._admission.identify(scope["headers"], self.spec.scope)
        context.account = caller.tenant
        self._admission.admit(caller, self.spec.scope)
        context.caller = caller
        await self._budget.gate.enter(caller.tenant)
        reservation = (
            self._budget.admit(caller.tenant)
            if self.spec.scope is not None
            else Reservation(self._budget, caller.tenant)
        )
        try:
            await self._run(context, scope, receive, send, caller, reservation)
        finally:
            reservation.end()

    async def _run(  # noqa: PLR0917 (as ASGI, and what `run` has found out)
        self,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
        send: Send,
        caller: Caller,
        reservation: Reservation,
    ) -> None:
        query = self.spec.query(scope["query_string"])
        client: ClientConnection = scope["extensions"][EXTENSION]
        if client.head_bytes > SMALL_BYTES:
            reservation.more(client.head_bytes)
        call = Call(
            scope, context, receive, self.spec, query, client, caller, self._catalog, reservation, self._admission
        )
        answer = await self._handler(call)
        reached = False
        try:
            if len(answer.body) > SMALL_BYTES:
                call.worked(len(answer.body), WORK_BYTES)
                reservation.more(len(answer.body))
            await respond(send, answer, reservation)
            reached = client.reached
        finally:
            if answer.on_sent is not None:
                answer.on_sent(reached)


class Resource:
    """One path: one operation per method. Answers other methods with 405, and HEAD like GET where that is harmless.

    template: the path as written in the contract; set by the router.
    """

    template = ""

    def __init__(self, *, head: bool = True, **operations: Operation) -> None:
        self._operations = {method.upper(): operation for method, operation in operations.items()}
        if head and "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self.allow = ", ".join(sorted(self._operations))

    @property
    def methods(self) -> frozenset[str]:
        return frozenset(self._operations)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.of(scope)
        operation = self._operations.get(scope["method"])
        if operation is None:
            hint = elsewhere(scope["method"], self.template, context.url_root)
            raise MethodNotAllowed(f"this path accepts only {self.allow}{'; ' if hint else ''}{hint}", self.allow)
        context.operation = operation.spec.id
        await operation.run(context, scope, receive, send)


async def respond(send: Send, answer: Answer, reservation: Reservation | None = None) -> None:
    """Writes the answer, with its length and the headers that every answer has.

    reservation: what the request holds. A large answer is written in pieces, with other work between them.
    """
    headers: Headers = [NOSNIFF]
    if answer.headers:
        headers += answer.headers
    if answer.status != 204:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = answer.body
    if reservation is not None:
        for at in range(0, len(body) - LARGE_BYTES, LARGE_BYTES):
            await send({"type": "http.response.body", "body": body[at : at + LARGE_BYTES], "more_body": True})
            await reservation.turn()
        body = body[(len(body) - 1) // LARGE_BYTES * LARGE_BYTES :] if len(body) > LARGE_BYTES else body
    await send({"type": "http.response.body", "body": body})


def json_answer(value: object, status: int = 200, headers: Headers | None = None) -> Answer:
    """A JSON answer; dataclasses are objects."""
    return Answer(status, orjson.dumps(value), [JSON, NO_STORE, *(headers or ())])


def problem_answer(error: GatewayError, request_id: str, caller: Caller | None = None) -> Answer:
    """The problem (RFC 9457) that shows the error to `caller`. None: to any caller."""
    body = problem_bytes(error, request_id, operator=caller is not None and caller.is_operator)
    headers = [each for each in problem_headers(error, body) if each[0] != b"content-length"]
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    return Answer(error.status, body, headers)
