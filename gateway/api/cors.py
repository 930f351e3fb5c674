"""CORS: lets pages of listed origins call from a browser. Every answer has its headers, errors included. Pure.

Credentials in the browser's sense (cookies, client certificates) are never allowed, and no answer allows `*`. A page
needs a key in the Authorization header, which it can get only from its user.
Source: Fetch Standard, "HTTP CORS protocol".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from gateway.api.context import RequestContext
from gateway.api.exchange import Answer

METHODS: Final = b"GET, POST, PUT, DELETE"
EXPOSED: Final = (
    b"Lease-Id, Lease-Expires, Lease-Acked, Location, Retry-After, Preference-Applied, Request-Id, "
    b"Idempotency-Replayed, Queue-Coverage, Queue-Paused, Queue-Limited, WWW-Authenticate, "
    b"Attributes-Left-Out, traceparent, tracestate, "
    b"ce-specversion, ce-id, ce-source, ce-type, ce-subject, ce-time, ce-dataschema, ce-expires, ce-attempt, "
    b"ce-enqueued, ce-readytime, ce-tenant, ce-lasterror, ce-deadreason, ce-deadtime, ce-deadqueue, ce-deadattempts, "
    b"ce-traceparent, ce-tracestate"
)
"""The headers that a page may read. CORS has no patterns, so a producer's own extensions are not included."""
MAX_AGE_S: Final = 600
"""How long a browser may keep the answer to a preflight. Source: Chromium keeps none for longer than 7,200 s."""
_NAMES: Final = re.compile(rb"[A-Za-z0-9_, -]{1,1024}")


class Cors:
    """What a page of another origin may do. origins: the allowed ones, as browsers write them."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def look_at(self, context: RequestContext) -> Answer | None:
        """Adds the headers that the answer needs to the context. The answer itself, if the request is a preflight."""
        origin = asked = wanted = b""
        for name, value in context.request.headers:
            if name == b"origin":
                origin = value
            elif name == b"access-control-request-method":
                asked = value
            elif name == b"access-control-request-headers":
                wanted = value
        allowed = origin in self._origins
        if allowed and asked and context.request.method == "OPTIONS":
            headers = [
                (b"vary", b"Origin, Access-Control-Request-Headers"),
                (b"access-control-allow-origin", origin),
                (b"access-control-allow-methods", METHODS),
                (b"access-control-max-age", b"%d" % MAX_AGE_S),
            ]
            if _NAMES.fullmatch(wanted):
                headers.append((b"access-control-allow-headers", wanted))
            return Answer(204, headers=headers)
        context.cors = [(b"vary", b"Origin")]
        if allowed:
            context.cors.append((b"access-control-allow-origin", origin))
            context.cors.append((b"access-control-expose-headers", EXPOSED))
        return None
