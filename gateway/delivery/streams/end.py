"""Why a stream ends. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.errors import Draining, GatewayError


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """reason: for programs. detail: for people. retryable: whether a new stream may work. retry_after_s: not before."""

    reason: str
    detail: str
    retryable: bool = True
    retry_after_s: int | None = None


CLIENT_GONE: Final = StreamEnd("client-gone", "the client has closed its connection")
"""The only end that the client does not see."""
DRAIN: Final = StreamEnd(Draining.code, "the gateway is shutting down; open a new stream and settle the open leases")
LIFETIME: Final = StreamEnd("lifetime", "the stream has reached its longest lifetime; open a new one")
UNREAD: Final = StreamEnd("lease-unread", "the lease of a job expired before the client had read the job")
UNSETTLED: Final = StreamEnd(
    "leases-unsettled",
    "the client does not settle its jobs: a whole window of leases, at least 3, expired in a row; "
    "settle each job before its lease ends",
)


def end_by(error: GatewayError, *, operator: bool) -> StreamEnd:
    """The end of a stream that cannot go on. operator: whether the client may see the addresses of servers."""
    return StreamEnd(error.code, error.detail_for(operator=operator), error.retryable, error.retry_after_s)
