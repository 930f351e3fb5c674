"""The lines of a stream, as NDJSON or as server-sent events, and how they are written to the client.

Each line is one JSON object whose member `type` is `open`, `job`, `keepalive` or `end`. As an event, the object is its
data and the type its name. An event has no id: a browser would send it back, and it would be written to logs.
Source: HTML Living Standard, section 9.2 (server-sent events).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import orjson

from gateway.api.access.budget import SMALL_BYTES, Reservation
from gateway.api.context import RequestTrace
from gateway.api.request.accept import quality, ranges
from gateway.api.response.rendering import render_object
from gateway.delivery.streams.end import StreamEnd
from gateway.delivery.streams.source import StreamedJob
from gateway.envelope.media import LINES_TYPE
from gateway.request import Headers, HttpRequest

EVENTS_TYPE: Final = "text/event-stream"


def wants_events(accept: str) -> bool:
    """Whether the client prefers server-sent events to NDJSON. Every other type is answered with NDJSON."""
    found = ranges(accept)
    return quality(found, EVENTS_TYPE) > max(quality(found, LINES_TYPE), quality(found, "application/json"))


def stream_headers(*, events: bool) -> Headers:
    """The headers of a stream. Proxies are asked not to collect or to change it."""
    return [
        (b"content-type", EVENTS_TYPE.encode() if events else LINES_TYPE.encode()),
        (b"cache-control", b"no-store, no-transform"),
        (b"x-accel-buffering", b"no"),
        (b"vary", b"Accept"),
    ]


class StreamWriter:
    """Implements delivery.streams.stream.StreamOutput. opening: the members of the line `open`. root: see `render`.
    trace: of the request, if there are traces."""

    def __init__(
        self,
        request: HttpRequest,
        reservation: Reservation,
        *,
        events: bool,
        opening: dict[str, object],
        root: str,
        trace: RequestTrace | None = None,
    ) -> None:
        self._request = request
        self._reservation = reservation
        self._events = events
        self._opening = opening
        self._root = root
        self._trace = trace
        self._written = 0
        self._large = 0  # bytes of large lines, which count until the client has read them
        self._blocked = False  # the client has to read before anything more is written

    @property
    def sent_bytes(self) -> int:
        """See StreamOutput. A client that goes while it has to read has not got the last line."""
        if self._request.gone and self._blocked:
            return self._written - 1
        return self._written - self._request.unsent_bytes

    @property
    def delivered(self) -> bool:
        """See StreamOutput."""
        return self._request.reached

    def on_gone(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See StreamOutput."""
        return self._request.on_gone(callback)

    async def writable(self) -> None:
        """See StreamOutput."""
        self._blocked = True
        await self._request.writable()
        self._blocked = self._request.gone
        if self._large:
            self._reservation.less(self._large)
            self._large = 0

    async def opened(self) -> None:
        """Writes the first line."""
        await self._write(self._line("open", self._opening))

    async def jobs(self, jobs: Sequence[StreamedJob]) -> int:
        """See StreamOutput."""
        lines = b"".join([self._job(each) for each in jobs])
        if self._trace is not None:
            self._trace.delivered(jobs[0].queue, [(each.job, each.lease) for each in jobs])
        if len(lines) > SMALL_BYTES:
            self._reservation.more(len(lines))
            self._large += len(lines)
        await self._write(lines)
        return self._written

    async def keepalive(self) -> None:
        """See StreamOutput."""
        if not self._request.unsent_bytes:
            await self._write(self._line("keepalive", {}))

    async def ended(self, end: StreamEnd) -> None:
        """See StreamOutput."""
        members: dict[str, object] = {"reason": end.reason, "detail": end.detail, "retryable": end.retryable}
        if end.retry_after_s is not None:
            members["retry_after_seconds"] = end.retry_after_s
        await self._write(self._line("end", members), last=True)

    async def _write(self, data: bytes, *, last: bool = False) -> None:
        self._written += len(data)
        await self._request.write(data, last=last)

    def _job(self, taken: StreamedJob) -> bytes:
        shown = render_object(taken.job, taken.queue, taken.lease, root=self._root)
        if self._events:
            return b'event: job\ndata: {"type":"job",%b\n\n' % shown[1:]
        return b'{"type":"job",%b\n' % shown[1:]

    def _line(self, kind: str, members: dict[str, object]) -> bytes:
        shown = orjson.dumps({"type": kind, **members})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), shown) if self._events else shown + b"\n"
