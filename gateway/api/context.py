"""What the callables of the HTTP edge know of one request, in one typed value that travels in its ASGI scope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

from gateway.api.access.caller import Caller
from gateway.survey import Coverage, least

_KEY: Final = "kestrel_gateway.request"


@dataclass(slots=True)
class RequestContext:
    """One request. The outermost callable makes it; those further in add what they find out.

    id: as answers and logs have it. url_root: the prefix of the path in every URL of an answer.
    operation: the contract's name of it; empty before the path is known. caller: None before it is known.
    lease_acked: whether `ack` of this request is done, whatever becomes of the rest.
    coverage: how many servers took part, where not all did.
    """

    id: str
    url_root: str
    operation: str = ""
    caller: Caller | None = None
    lease_acked: bool = False
    coverage: Coverage | None = None

    @property
    def tenant(self) -> str:
        """The caller's; empty where there is none, and before it is known."""
        return self.caller.tenant if self.caller is not None else ""

    @classmethod
    def of(cls, scope: Scope) -> RequestContext:
        """The context of the request with that scope."""
        context: RequestContext = scope[_KEY]
        return context

    def put_into(self, scope: Scope) -> None:
        """From now on it is the context of the request with that scope."""
        scope[_KEY] = self

    def covered_by(self, coverage: Coverage | None) -> None:
        """A step of it was done by so many servers; None: by all of them."""
        self.coverage = least(self.coverage, coverage)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer to it says, errors included."""
        headers = [(b"request-id", self.id.encode())]
        if self.lease_acked:
            headers.append((b"lease-acked", b"true"))
        if self.coverage is not None:
            headers.append((b"queue-coverage", str(self.coverage).encode()))
        return headers
