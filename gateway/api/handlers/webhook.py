"""The handshake of webhooks: whether a sender of events may deliver to a queue.

It protects third parties from senders that are pointed at them. It grants no access: each delivery is an ordinary
enqueue and needs its key. So the handshake needs no key, and reveals nothing about the queue.
Source: HTTP 1.1 Web Hooks for Event Delivery 1.0.2 (CloudEvents), section 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.api.exchange import NO_STORE, Answer, Call
from gateway.errors import ForbiddenOrigin
from gateway.names.namespace import check_name

ANY: Final = "*"
_ALLOW: Final = (b"allow", b"OPTIONS, POST")


class Webhook:
    """The handler of OPTIONS on the paths that enqueue. origins: names of senders, `*` for any."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.lower() for origin in origins)

    async def check(self, call: Call) -> Answer:
        """Without `WebHook-Request-Origin` this is a plain OPTIONS. Raises InvalidName, ForbiddenOrigin."""
        check_name(call.path("queue"), "queue")
        origin = call.header(b"webhook-request-origin")
        if origin is None:
            return Answer(200, headers=[_ALLOW, NO_STORE])
        if ANY not in self._origins and origin.lower() not in self._origins:
            raise ForbiddenOrigin(
                f"WebHook-Request-Origin {origin[:100]!r} is not allowed; add it to --webhook-origins"
            )
        allowed = ANY if ANY in self._origins else origin
        return Answer(
            200,
            headers=[
                (b"webhook-allowed-origin", allowed.encode("latin-1")),
                (b"webhook-allowed-rate", b"*"),
                _ALLOW,
                NO_STORE,
            ],
        )
