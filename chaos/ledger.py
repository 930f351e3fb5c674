"""Everything that was asked and answered in a run, as lines of JSON in append-only files; one file a process' life.

A client writes what it is about to ask before it asks, and the answer when it has it: one write() a line, so that what
a killed client knew is not lost with it. Judges nothing. Times are monotonic seconds, one clock for all processes of
the machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

NO_ANSWER = 0
"""The status of a request whose connection ended first: it may have been executed."""
NOT_SENT = -1
"""The status of a request whose connection was refused: it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutEvent:
    """An enqueue is about to be sent. token: names the job in its data. number: counts the tries of that job.

    delay: in seconds, for a delayed job.
    """

    t: float
    who: str
    token: str
    number: int
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PutAnswer:
    """The answer to the enqueue. job: its id, if it was stored."""

    t: float
    token: str
    number: int
    status: int
    code: str = ""
    job: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollEvent:
    """A `next` is about to be sent. number: counts the polls of one consumer's life. queue: one or several names."""

    t: float
    who: str
    life: int
    number: int
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PollAnswer:
    """Its whole answer was read; a poll without one of these may have got a job that no client saw."""

    t: float
    who: str
    life: int
    number: int
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryEvent:
    """A consumer has read a job whole. opened, expires: of its lease, by the gateway's own clock, exact to 1 ms.

    The times of a batch are those of its first job. The lease of a later one was opened between `opened` and
    `opened_by`, which is 0 for a first or only job.
    """

    t: float
    who: str
    token: str
    job: str
    attempt: int
    lease: str
    replica: int
    opened: float
    expires: float
    queue: str = ""
    opened_by: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleEvent:
    """A settlement is about to be sent. verb: ack, nack-head, nack-tail, nack-delay, reject, extend.

    number: tells apart what is asked of one lease. delay: of a nack, in seconds.
    """

    t: float
    who: str
    lease: str
    number: int
    verb: str
    replica: int
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleAnswer:
    """The answer to the settlement. expires: the lease's new end, of an extension. due: of a job that was nacked with a
    delay and is on a holding queue, when it comes back."""

    t: float
    lease: str
    number: int
    status: int
    code: str = ""
    expires: float = 0.0
    due: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseEvent:
    """A queue was paused on all servers from `t`, when the answer came, to `end`, when the end was asked for."""

    t: float
    end: float
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """An answer that no client should ever get."""

    t: float
    who: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something was killed or frozen at `t`; `end`: it was started again, or thawed. target: `worker-0.1`, `server-1`.

    action: kill, kill-parent, freeze; `missed` where there was nothing to hit; `ended` where it ended by itself.
    """

    t: float
    end: float
    target: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A job that lay on a queue when all was over."""

    t: float
    token: str
    queue: str
    server: int


Event = (
    PutEvent
    | PutAnswer
    | PollEvent
    | PollAnswer
    | DeliveryEvent
    | SettleEvent
    | SettleAnswer
    | PauseEvent
    | Odd
    | Fault
    | Left
)
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


class EventFile:
    """The file of one process' life."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: Event) -> None:
        """The event survives whatever happens to this process from here on."""
        os.write(
            self._descriptor, json.dumps({"kind": type(event).__name__, **dataclasses.asdict(event)}).encode() + b"\n"
        )

    def close(self) -> None:
        os.close(self._descriptor)


def parse(lines: Iterable[str]) -> list[Event]:
    """The events of a file. An incomplete last line, of a process that was killed while it wrote, does not count."""
    events: list[Event] = []
    for line in lines:
        if line.endswith("\n"):
            fields = json.loads(line)
            events.append(_KINDS[fields.pop("kind")](**fields))
    return events


def read(directory: Path) -> list[Event]:
    """The events of all files of a run, in the order of their times."""
    events: list[Event] = []
    for path in sorted(directory.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            events += parse(lines)
    return sorted(events, key=lambda event: event.t)
