"""The endpoint for commands of other replicas: one path outside the contract, for sealed messages only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.api.access.budget import Budget, Reservation
from gateway.api.context import RequestContext, Serve
from gateway.api.exchange import JSON, NO_STORE, Answer, respond
from gateway.errors import BadFraming, JobTooLarge, MethodNotAllowed
from gateway.forwarding.commands import LeaseCommand, Result
from gateway.forwarding.replicas import MAX_MESSAGE, PATH, SEAL_HEADER, Replicas
from gateway.request import Headers, HttpRequest


class ReplicaEndpoint:
    """Answers requests for its path. execute: carries out a command here and never forwards it to another replica.

    budget: limits what a message may hold before its seal is checked.
    """

    def __init__(
        self, replicas: Replicas, budget: Budget, execute: Callable[[LeaseCommand], Awaitable[Result]]
    ) -> None:
        self._budget = budget
        self._replicas = replicas
        self._execute = execute

    def beside(self, serve: Serve) -> Serve:
        """Answers requests for the endpoint's path here, and other requests with `serve`."""
        return lambda context: self._answer(context) if context.request.path == PATH else serve(context)

    async def _answer(self, context: RequestContext) -> None:
        request = context.request
        context.operation = "clusterOrders"
        if request.method != "POST":
            raise MethodNotAllowed("this path accepts only POST", "POST")
        seal = _seal(request.headers)
        reservation = Reservation(self._budget, "")
        try:
            command = self._replicas.receive(seal, await _body(request, reservation))
        finally:
            reservation.end()
        body, own = self._replicas.answer(seal, None if command is None else await self._execute(command))
        await respond(context, Answer(200, body, [JSON, NO_STORE, (SEAL_HEADER.encode(), own.encode())]))


def _seal(headers: Headers) -> str:
    found = [value for name, value in headers if name == SEAL_HEADER.encode()]
    if len(found) != 1:
        raise BadFraming("the message must have exactly one signature")
    return found[0].decode("latin-1")


async def _body(request: HttpRequest, reservation: Reservation) -> bytes:
    """The whole body. Raises JobTooLarge, TooManyBytes, ClientDisconnected."""
    body, more = b"", True
    while more:
        chunk, more = await request.body()
        reservation.more(len(chunk))
        body += chunk
        if len(body) > MAX_MESSAGE:
            raise JobTooLarge(f"the command is above the maximum of {MAX_MESSAGE} bytes")
    return body
