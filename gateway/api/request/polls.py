"""What a poll asks for, in a query or a body: how long it waits, how long its lease lasts, and what it acks before."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.api.exchange import Call
from gateway.api.specification import default_lease, longest_lease
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.receive import NextOptions
from gateway.errors import ForbiddenPrefetch, InvalidParameter
from gateway.request import Headers
from gateway.settings import Settings

AUTO: Final = "auto"
"""The value of `ack` that acks the next job before it is delivered; behind a lease and a comma, or alone."""
_WAIT: Final = re.compile(r"[0-9]{1,9}")
_PURPOSE: Final = frozenset({b"sec-purpose", b"purpose"})


@dataclass(slots=True)
class PollRequest:
    """One poll. lease_s: the length of the lease of a job of the queue. acks: the id of a lease to ack before; empty:
    none. at_most_once: whether the next job is acked before it is delivered. preference: the headers that say which
    preference the answer meets.
    """

    timeout_s: float
    lease_s: Callable[[Queue], float]
    acks: str
    at_most_once: bool
    preference: Headers = field(default_factory=list)

    def options(self, call: Call) -> NextOptions:
        """For whoever takes the jobs."""
        return NextOptions(self.timeout_s, self.lease_s, call.request.on_gone, self.at_most_once)


class PollRequests:
    """Reads the polls of requests that the contract has validated."""

    def __init__(self, settings: Settings) -> None:
        self._max_timeout_s = settings.max_timeout_s
        self._default_timeout_s = settings.default_timeout_s
        self._default_lease_s = default_lease(settings)
        self._longest_lease_s = longest_lease(settings)

    def of_query(self, call: Call) -> PollRequest:
        """Of a GET. The time to wait is the parameter, otherwise `Prefer: wait` (RFC 7240), otherwise the default.

        Raises ForbiddenPrefetch.
        """
        if not call.request.names.isdisjoint(_PURPOSE):
            _refuse_prefetch(call)
        query = call.query
        timeout_s: float = query["timeout"]
        preference: Headers = []
        if "timeout" not in query.given and _WAIT.fullmatch(wait := call.preferences.get("wait", "")):
            timeout_s = min(float(wait), self._max_timeout_s)
            preference = [(b"preference-applied", b"wait=%d" % timeout_s)]
        return self._request(timeout_s, query["lease_seconds"], query["ack"], preference)

    def of_stream(self, call: Call) -> PollRequest:
        """Of a stream, which has no time to wait. Raises ForbiddenPrefetch."""
        _refuse_prefetch(call)
        return self._request(0.0, call.query["lease_seconds"], call.query["ack"], [])

    def of_body(self, wanted: Mapping[str, Any]) -> PollRequest:
        """Of a POST."""
        timeout_s = float(wanted.get("timeout", self._default_timeout_s))
        return self._request(timeout_s, wanted.get("lease_seconds"), wanted.get("ack"), [])

    def _request(self, timeout_s: float, lease_s: float | None, ack: str | None, preference: Headers) -> PollRequest:
        lease_id, comma, _ = (ack or "").partition(",")
        auto = lease_id == AUTO
        length = self.default_lease if lease_s is None else lambda _: float(lease_s)
        return PollRequest(timeout_s, length, "" if auto else lease_id, auto or bool(comma), preference)

    def default_lease(self, queue: Queue) -> float:
        """The length of a lease if the request gives none: from the queue's policy, otherwise from the settings."""
        policy_s = queue.policy.lease_s
        return self._default_lease_s if policy_s is None else min(policy_s, self._longest_lease_s)


def several_queues(call: Call) -> list[Queue]:
    """The queues that the query names. Raises InvalidParameter, InvalidName, ForbiddenQueue."""
    if not call.query["queue"]:
        raise InvalidParameter("queue: name 1 to 32 queues, such as ?queue=high&queue=low")
    return [call.named(name.replace(" ", "+")) for name in call.query["queue"]]


def _refuse_prefetch(call: Call) -> None:
    """Raises ForbiddenPrefetch if a browser sent the request before its reader asked for the page."""
    if _is_prefetch(call.request.headers):
        raise ForbiddenPrefetch(
            "a prefetch must not take a job; send the request without the headers Purpose and Sec-Purpose"
        )


def _is_prefetch(headers: Headers) -> bool:
    for name, value in headers:
        if name in _PURPOSE and any(word in value.lower() for word in (b"prefetch", b"prerender")):
            return True
    return False
