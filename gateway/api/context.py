"""What the HTTP edge knows of one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from starlette.types import Scope

from gateway.api.access.caller import Caller
from gateway.coverage import Coverage, least
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.read import Job
from gateway.fairness.loop_time import REFUSED
from gateway.leases.lease import Lease
from gateway.request import Headers, HttpRequest

_KEY: Final = "kestrel_gateway.request"


class RequestTrace(Protocol):
    """The spans of one request, for OpenTelemetry. trace_id: in hexadecimal; empty before the first span."""

    trace_id: str

    def enqueue(self, queue: Queue, parent: str, state: str) -> str:
        """The request enqueues. parent, state: its `traceparent` and `tracestate`, valid or empty. Returns the
        `traceparent` for the jobs. All calls are about one enqueue."""

    def many(self, jobs: int) -> None:
        """The enqueue has a body with many jobs, or `jobs` further ones."""

    def delivered(self, queue: Queue, jobs: Sequence[tuple[Job, Lease]]) -> None:
        """The answer, or the next part of it, delivers these jobs."""

    def redrive(self, target: Queue) -> Callable[[Job], None]:
        """The request puts dead letters on the target. Returns what to call with each of them that is a job again."""

    def ended(self, job_id: str, size: int, status: int, code: str) -> None:
        """The request has ended. job_id, size: of a single job. code: of its problem; empty if it has succeeded."""


@dataclass(slots=True)
class RequestContext:
    """One request. The outermost callable creates it; inner ones add what they find out.

    id: as in answers and logs. url_root: the prefix of the path in every URL of an answer.
    path_params: the parameters in the path, decoded. operation: the operationId. Both are empty until the path is
    known. caller: None until it is admitted. status: of the answer; 0 until it is written.
    account: the one that the loop's time is charged to, see gateway.fairness.loop_time.
    lease_acked: whether the `ack` of this request is done, whatever happens to the rest.
    coverage: how many servers took part, if not all did.
    cors: the headers that let a page read the answer.
    queue, job_id, size, waited_s: see `concerns`. jobs_stored: of a body that is enqueued as it arrives.
    trace: None without `--traces`.
    """

    request: HttpRequest
    id: str
    url_root: str
    path_params: Mapping[str, str] = field(default_factory=dict)
    operation: str = ""
    caller: Caller | None = None
    account: str = REFUSED
    lease_acked: bool = False
    coverage: Coverage | None = None
    cors: Headers | None = None
    status: int = 0
    queue: str = ""
    job_id: str = ""
    size: int = 0
    waited_s: float | None = None
    jobs_stored: int | None = None
    trace: RequestTrace | None = None

    def concerns(self, queue: str, job_id: str | None = None, size: int = 0, waited_s: float | None = None) -> None:
        """Notes for the log line which job the request is about. size: of its payload, or of a body with many jobs, in
        bytes. waited_s: see JobTimes."""
        self.queue, self.job_id, self.size, self.waited_s = queue, job_id or "", size, waited_s

    @property
    def tenant(self) -> str:
        """The caller's tenant; empty without tenants, and until the caller is admitted."""
        return self.caller.tenant if self.caller is not None else ""

    @classmethod
    def of(cls, scope: Scope) -> RequestContext:
        """The context in the scope of an ASGI request."""
        context: RequestContext = scope[_KEY]
        return context

    def put_into(self, scope: Scope) -> None:
        """Puts the context into the scope of an ASGI request."""
        scope[_KEY] = self

    def covered_by(self, coverage: Coverage | None) -> None:
        """Notes how many servers took part in a step; None means all of them."""
        if coverage is not None:
            self.coverage = least(self.coverage, coverage)

    def headers(self) -> Headers:
        """The headers of every answer to the request, including errors."""
        headers = [(b"request-id", self.id.encode())]
        if self.lease_acked:
            headers.append((b"lease-acked", b"true"))
        if self.coverage is not None:
            headers.append((b"queue-coverage", str(self.coverage).encode()))
        return headers + self.cors if self.cors else headers


Serve = Callable[[RequestContext], Awaitable[None]]
"""Answers a request. Raises GatewayError, ClientDisconnected."""
