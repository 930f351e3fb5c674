"""The endpoint for commands of other replicas: one path outside the contract, for sealed messages only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.access.budget import Budget, Reservation
from gateway.api.context import RequestContext
from gateway.api.exchange import JSON, NO_STORE, Answer, ClientDisconnected, respond
from gateway.errors import BadFraming, JobTooLarge, MethodNotAllowed
from gateway.forwarding.commands import LeaseCommand, Result
from gateway.forwarding.replicas import MAX_MESSAGE, PATH, SEAL_HEADER, Replicas


class ReplicaEndpoint:
    """Wraps the router. execute: carries out a command here and never forwards it to another replica.

    budget: limits what a message may hold before its seal is checked.
    """

    def __init__(
        self, app: ASGIApp, replicas: Replicas, budget: Budget, execute: Callable[[LeaseCommand], Awaitable[Result]]
    ) -> None:
        self._app = app
        self._budget = budget
        self._replicas = replicas
        self._execute = execute

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        RequestContext.of(scope).operation = "clusterOrders"
        if scope["method"] != "POST":
            raise MethodNotAllowed("this path accepts only POST", "POST")
        seal = _seal(scope)
        reservation = Reservation(self._budget, "")
        try:
            command = self._replicas.receive(seal, await _body(receive, reservation))
        finally:
            reservation.end()
        body, own = self._replicas.answer(seal, None if command is None else await self._execute(command))
        await respond(send, Answer(200, body, [JSON, NO_STORE, (SEAL_HEADER.encode(), own.encode())]))


def _seal(scope: Scope) -> str:
    found = [value for name, value in scope["headers"] if name == SEAL_HEADER.encode()]
    if len(found) != 1:
        raise BadFraming("the message must have exactly one seal")
    return str(found[0].decode("latin-1"))


async def _body(receive: Receive, reservation: Reservation) -> bytes:
    """The whole body. Raises JobTooLarge, TooManyBytes, ClientDisconnected."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        reservation.more(len(chunk))
        body += chunk
        if len(body) > MAX_MESSAGE:
            raise JobTooLarge(f"the command is above the maximum of {MAX_MESSAGE} bytes")
        if not message.get("more_body", False):
            return bytes(body)
