"""Stores the lines of a file as jobs, in requests of many jobs, each stored once however often it is sent.

1. Lines are sent in order, as many in each request as the gateway allows. The bytes of their payloads are not changed.
2. A request that is repeated has the same Idempotency-Key. Jobs that the gateway could not store now are sent again,
   with a key of their own.
3. If one bad line makes a request fail, each of its lines is sent in a request of its own. Any other failure, such as
   that of a wrong name of a queue, concerns all lines, and ends the command.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from gateway.client import events, failures, options
from gateway.client.api import GatewayApi, queue_path
from gateway.client.failures import CallFailed
from gateway.common.counted import counted

_SHARE: Final = 0.9
"""How much of the gateway's limit of bytes a request uses: a limit is one of the whole body."""
_SHOWN_LINES: Final = 20
"""So many lines that are not accepted are reported one by one: the others are most likely of the same kind."""
_TOO_LARGE: Final = 413
_OF_A_LINE: Final = frozenset({"invalid-body", "invalid-event", "delay-beyond-expiry"})
"""The failures of a whole request that one of its lines may cause. Source: docs/errors.md."""


_NOT_AN_EVENT: Final = frozenset({"invalid-body", "invalid-event"})


@dataclass(frozen=True, slots=True)
class Line:
    """A job in a line. number: from 1 on, as an editor counts. end: the offset behind the line break."""

    number: int
    job: bytes
    end: int


def _unchanged(line: bytes) -> bytes:
    return line


@dataclass(frozen=True, slots=True)
class LineFormat:
    """How lines become the body of a request. path: behind that of the queue. job: what a line becomes in the body.

    is_events: the lines are CloudEvents.
    """

    content_type: str
    before: bytes
    between: bytes
    after: bytes
    path: str = "jobs"
    job: Callable[[bytes], bytes] = _unchanged
    is_events: bool = False

    def body(self, lines: list[Line]) -> bytes:
        return self.before + self.between.join(line.job for line in lines) + self.after


NDJSON: Final = LineFormat("application/x-ndjson", b"", b"\n", b"\n")
EVENTS: Final = LineFormat("application/cloudevents-batch+json", b"[", b",", b"]", is_events=True)
_JOBS: Final = ("application/json", b'{"jobs":[', b",", b"]}", "jobs/batch")
RAW_LINES: Final = LineFormat(*_JOBS, job=lambda line: b'{"data_base64":"%b"}' % base64.b64encode(line))
RAW_EVENTS: Final = LineFormat(*_JOBS, job=events.payload, is_events=True)
"""For a queue that stores payloads only. It would store the whole body of another request as one job."""


@dataclass(slots=True)
class Done:
    """What became of the lines so far. lines: the number of the last line whose outcome is known."""

    lines: int = 0
    stored: int = 0
    refused: int = 0


def read(source: BinaryIO, form: LineFormat, *, number: int = 0, offset: int = 0) -> Iterator[Line]:
    """The lines that are not blank. number, offset: of what is before the position of the source."""
    for text in source:
        number, offset = number + 1, offset + len(text)
        job = text.strip(b" \t\r\n")
        if job:
            yield Line(number, form.job(job), offset)


def batches(lines: Iterator[Line], most: int, most_bytes: int) -> Iterator[list[Line]]:
    """The lines in groups that fit in one request. A line that fits in none is a group of its own."""
    group: list[Line] = []
    size = 0
    for line in lines:
        if group and (len(group) == most or size + len(line.job) + 1 > most_bytes * _SHARE):
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line.job) + 1
    if group:
        yield group


class LineSender:
    """Stores lines on a queue. key: the Idempotency-Key of a request that begins with that line and has that body."""

    def __init__(
        self,
        api: GatewayApi,
        queue: str,
        form: LineFormat,
        key: Callable[[Line, bytes], str],
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.done = Done()
        self._codes: set[str] = set()
        self._api = api
        self._path = f"{queue_path(queue)}/{form.path}"
        self._form = form
        self._key = key
        self._params = dict(params or {})
        self._headers = {**(headers or {}), "Content-Type": form.content_type}

    def store(self, lines: list[Line]) -> None:
        """Stores the lines, and reports those that the gateway does not accept. Raises CallFailed."""
        last = lines[-1].number
        tries, began_s = 0, time.monotonic()
        while lines:
            later = self._sorted(lines, self._send(lines))
            lines = [line for line, _ in later]
            if later:
                result = later[0][1]
                tries += 1
                pause_s = failures.pause_s(tries)
                if not self._api.may_wait(time.monotonic() - began_s, pause_s):
                    raise CallFailed(result["code"], result["detail"], status=result["status"], retryable=True)
                options.notice(f"{counted(len(lines), 'job')}: {result['code']}; next try in {pause_s:.1f} s")
                time.sleep(pause_s)
        self.done.lines = last

    def _sorted(self, lines: list[Line], results: list[dict[str, Any]]) -> list[tuple[Line, dict[str, Any]]]:
        """Counts what is decided. Returns the lines that may be stored later."""
        later = []
        for line, result in zip(lines, results, strict=True):
            if "code" not in result:
                self.done.stored += 1
            elif result["retryable"]:
                later.append((line, result))
            else:
                self._refuse(line, result)
        return later

    def _refuse(self, line: Line, result: dict[str, Any]) -> None:
        """Counts and reports a line that the gateway does not accept."""
        self.done.refused += 1
        self._codes.add(result["code"])
        if self.done.refused <= _SHOWN_LINES:
            options.notice(f"line {line.number}: {result['code']}: {result['detail']}")
        if self.done.refused == _SHOWN_LINES + 1:
            options.notice("further lines that are not accepted are only counted")
            if self._form.is_events and not self.done.stored and self._codes <= _NOT_AN_EVENT:
                options.notice("the first lines are not CloudEvents; `put --lines` stores lines of any JSON")

    def _send(self, lines: list[Line]) -> list[dict[str, Any]]:
        """One result for each line."""
        body = self._form.body(lines)
        headers = {**self._headers, "Idempotency-Key": self._key(lines[0], body)}
        try:
            answer = self._api.call("POST", self._path, content=body, headers=headers, params=self._params)
        except CallFailed as failed:
            if failed.status != _TOO_LARGE and failed.code not in _OF_A_LINE:
                raise
            if len(lines) > 1:
                return [result for line in lines for result in self._send([line])]
            detail = str(failed).partition(": ")[2]
            return [{"status": failed.status, "code": failed.code, "detail": detail, "retryable": False}]
        found = answer.json()
        if "results" not in found:
            stored = counted(len(lines), "line is", "lines are")
            raise CallFailed(
                "raw-queue",
                f"the queue has the format raw, so {stored} stored as one job; delete that job. "
                "A key with the scope observe lets the command see the format before it sends",
                status=answer.status_code,
                retryable=False,
            )
        results: list[dict[str, Any]] = found["results"]
        return results
