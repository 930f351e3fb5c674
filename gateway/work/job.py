"""A job, or a batch of jobs, that the worker has taken: its bytes, its attributes, and its lease. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from gateway.common.counted import counted

_PREFIX: Final = "ce-"


@dataclass(frozen=True, slots=True)
class TakenJob:
    """id: empty for a raw item. attributes: the CloudEvents attributes, decoded.

    headers: the attributes as they came, for an endpoint. lease_s: the length of the lease. lease_url: its full URL.
    A batch has no id and no attributes: its body has a line of JSON for each of its `jobs`, and batch_attempt is the
    highest attempt among them; 0 for a job by itself.
    """

    queue: str
    lease: str
    lease_s: float
    lease_url: str
    lease_expires: str
    body: bytes = field(repr=False)
    content_type: str
    headers: Mapping[str, str] = field(repr=False)
    jobs: int = 1
    batch_attempt: int = 0

    @property
    def attributes(self) -> dict[str, str]:
        return {
            name[len(_PREFIX) :]: unquote(value) for name, value in self.headers.items() if name.startswith(_PREFIX)
        }

    @property
    def id(self) -> str:
        return unquote(self.headers.get("ce-id", ""))

    @property
    def attempt(self) -> int:
        return self.batch_attempt or int(self.headers.get("ce-attempt", "1"))

    def __str__(self) -> str:
        if self.batch_attempt:
            return f"a batch of {counted(self.jobs, 'job')} of {self.queue}"
        return self.id or f"an item of {self.queue}"


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an answer that belong to the job: its attributes and its trace context, in lower case."""
    return {
        name.lower(): value
        for name, value in headers.items()
        if name.lower().startswith(_PREFIX) or name.lower() in ("traceparent", "tracestate")
    }
