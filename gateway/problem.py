"""The one form in which an error leaves the gateway: RFC 9457 problem details. Knows no HTTP library.

It is below both the HTTP edge and the HTTP server, which answers requests that never reach a route, so that both answer
alike.
"""

from __future__ import annotations

from typing import Final

import orjson

from gateway.errors import GatewayError

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:kestrel-gateway:problem:"
NOSNIFF: Final[tuple[bytes, bytes]] = (b"x-content-type-options", b"nosniff")
"""Every answer has this header."""


def problem_bytes(error: GatewayError, request_id: str, *, operator: bool = False) -> bytes:
    """The JSON body for `error`, with fixed members in a fixed order. operator: the caller may see server addresses."""
    return orjson.dumps(
        {
            "type": TYPE_PREFIX + error.code,
            "title": error.title,
            "status": error.status,
            "detail": error.detail_for(operator=operator),
            "code": error.code,
            "request_id": request_id,
            "retryable": error.retryable,
        }
        | dict(error.counts)
        | ({"failures": error.failures} if error.failures else {})
    )


def problem_headers(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """The headers of that body, without its length: type, and the headers that the error sets."""
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"cache-control", b"no-store"),
    ]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.coverage:
        headers.append((b"queue-coverage", error.coverage.encode()))
    if error.challenge:
        headers.append((b"www-authenticate", error.challenge.encode()))
    return headers


def refusal_headers(error: GatewayError, request_id: str) -> list[tuple[bytes, bytes]]:
    """`problem_headers`, and those that every answer has: for an answer that does not pass the HTTP edge."""
    return [NOSNIFF, *problem_headers(error), (b"request-id", request_id.encode())]
