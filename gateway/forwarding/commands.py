"""Commands between workers and replicas, most of them about leases, and their results, as plain values. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

import orjson

from gateway.envelope.rewrite import plain
from gateway.errors import GatewayError, Internal, InvalidBody, error_classes
from gateway.leases.lease import LeaseRecord, Place, State
from gateway.leases.open_leases import OpenLease, OpenLeases


class NotUnderstoodError(Exception):
    """The owner is of a version that does not know the command, and has done nothing."""


NO_DELAY: Final = -1.0
"""The `length_s` of a nack that asks for no delay, whatever the policy says. Version 0.1.0 reads it as a delay that is
over."""


UNCOUNTED: Final = -2.0
"""The `length_s` of a nack to the head that counts no attempt. Version 0.1.0 counts one."""


class Verb(Enum):
    ACK = "ack"
    NACK = "nack"
    REJECT = "reject"
    EXTEND = "extend"
    INSPECT = "inspect"
    DROP_QUEUE = "drop-queue"
    COUNT = "count"
    END_POLLS = "end-polls"
    HOLD_PUTS = "hold-puts"
    RELEASE_PUTS = "release-puts"
    SETTLE_BATCH = "settle-batch"
    ENSURE_CHILD = "ensure-child"
    SETTLE_MANY = "settle-many"
    LIST_LEASES = "list-leases"


@dataclass(frozen=True, slots=True)
class LeaseCommand:
    """A command for another worker.

    subject: a lease id; a Kestrel key for DROP_QUEUE, END_POLLS, HOLD_PUTS, RELEASE_PUTS, ENSURE_CHILD and LIST_LEASES;
    the first lease id for SETTLE_MANY; empty for COUNT. length_s: for EXTEND; for NACK the delay, 0: by policy, or
    NO_DELAY or UNCOUNTED; for HOLD_PUTS the longest time; for ACK the number of jobs of a batch, 0: all. position: for
    NACK, a Place; empty: by policy. reason: for NACK and REJECT; for SETTLE_BATCH the settlement in JSON, for
    SETTLE_MANY the settlements. Version 0.1.0 accepts no further fields.

    deadline_s: monotonic, the same clock in every process of one machine; the owner does not begin after it.
    tenant: the tenant of the lease. hops: how often the command was forwarded.
    """

    verb: Verb
    subject: str
    deadline_s: float
    length_s: float = 0.0
    position: str = ""
    reason: str = ""
    tenant: str = ""
    hops: int = 0

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline_s

    def passed_on(self, deadline_s: float | None = None) -> LeaseCommand:
        """The command as its receiver gets it. deadline_s: by the receiver's clock, if that is another one."""
        return replace(self, hops=self.hops + 1, deadline_s=self.deadline_s if deadline_s is None else deadline_s)


Sample = tuple[str, tuple[str, ...], float]
"""A figure: its name, the values of its labels, and its value."""


HistogramSample = tuple[str, tuple[str, ...], tuple[int, ...], float]
"""A histogram: its name, the values of its labels, the counts by bucket (see gateway.common.histogram), and the sum."""


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """What one worker has counted, read at one instant. worker: its number within its gateway.

    queues: of the worker that reads the figures of queues: its gateway.delivery.figures.largest.QueueTable, or that in
    JSON.
    """

    worker: int
    samples: tuple[Sample, ...]
    histograms: tuple[HistogramSample, ...] = ()
    queues: Any = None


_CLASS_IN_0_1: Final = {
    "OwnerUnavailable": "Unavailable",
    "DelayBeyondExpiry": "BadRequest",
    "DeadLetterNotFound": "NotFound",
    "DeadLetterHeld": "IdempotencyInFlight",
    "TooManySubscriptions": "ForbiddenQueue",
}
"""For each class of errors that version 0.1.0 does not know, one with its status that it knows."""


@dataclass(frozen=True, slots=True)
class ManyResults:
    """The results of a SETTLE_MANY, in its order."""

    results: tuple[LeaseRecord | GatewayError, ...]


Result = LeaseRecord | WorkerFigures | ManyResults | OpenLeases | int | GatewayError


def settle_command(verb: Verb, lease_id: str, tenant: str, body: Mapping[str, Any]) -> LeaseCommand:
    """The command of a settlement as the contract describes its body. Its deadline is set when it is sent.

    Raises InvalidBody.
    """
    length_s = float(body["delay"]) or NO_DELAY if "delay" in body else 0.0
    position = body.get("position", "")
    if not body.get("count", True):
        if position not in ("", "head") or length_s > 0:
            raise InvalidBody(
                "count: with false the job goes to the head at once; leave out delay and the position tail"
            )
        length_s, position = UNCOUNTED, "head"
    reason = plain(body.get("reason", ""))
    return LeaseCommand(verb, lease_id, math.inf, length_s, position, reason, tenant)


def command_of(content: Any) -> LeaseCommand:
    """The command in its JSON form. Raises ValueError, KeyError or TypeError if no gateway can have written it."""
    return LeaseCommand(**content | {"verb": Verb(content["verb"])})


def result_content(result: Result) -> dict[str, object]:
    """A result in its JSON form."""
    match result:
        case GatewayError():
            return _error_content(result)
        case int():
            return {"count": result}
        case WorkerFigures():
            return {"figures": result}
        case ManyResults():
            return {"results": [result_content(each) for each in result.results]}
        case OpenLeases():
            return {"open_leases": result}
        case _:
            return _lease_content(result)


def result_of(content: Any) -> Result:
    """The result in its JSON form. Raises what `command_of` raises."""
    if "error" in content:
        return _error_of(content)
    if "count" in content:
        return int(content["count"])
    if "results" in content:
        return ManyResults(tuple(_one_of(each) for each in content["results"]))
    if "figures" in content:
        return _figures_of(content["figures"])
    if "open_leases" in content:
        told = content["open_leases"]
        leases = tuple(OpenLease(**each) for each in told["leases"])
        return OpenLeases(leases, told["left"], told["complete"])
    return _lease_of(content)


def _figures_of(content: Any) -> WorkerFigures:
    return WorkerFigures(
        content["worker"],
        tuple((name, tuple(labels), value) for name, labels, value in content["samples"]),
        tuple((name, tuple(labels), tuple(counts), total) for name, labels, counts, total in content["histograms"]),
        content["queues"],
    )


def _one_of(content: Any) -> LeaseRecord | GatewayError:
    return _error_of(content) if "error" in content else _lease_of(content)


def _error_content(error: GatewayError) -> dict[str, object]:
    """`error` is a class that version 0.1.0 knows, which reads only that and `detail`. Later versions read `code`, and
    the other members where they do not know the code."""
    name = type(error).__name__
    return {
        "error": _CLASS_IN_0_1.get(name, name),
        "detail": error.detail,
        "code": error.code,
        "status": error.status,
        "title": error.title,
        "retryable": error.retryable,
        "retry_after_s": error.retry_after_s,
    }


def _error_of(content: Any) -> GatewayError:
    """The error with its code, also with a code of a newer version: its status says what a client may do."""
    classes = error_classes()
    named = classes.get(content["error"], Internal)
    if "code" not in content:  # from version 0.1.0
        return named(content["detail"])
    says = content["code"], content["status"]
    for each in (named, *classes.values()):
        if (each.code, each.status) == says:
            return each(content["detail"])
    error = GatewayError(content["detail"])
    error.code, error.status, error.title = str(content["code"]), int(content["status"]), str(content["title"])
    error.retryable, error.retry_after_s = bool(content["retryable"]), content["retry_after_s"]
    return error


def _lease_content(record: LeaseRecord) -> dict[str, object]:
    """The jobs of a batch are beside the lease: version 0.1.0 ignores what is there, and fails on an unknown member of
    `lease`."""
    jobs = [_record_content(each) for each in record.jobs]
    return {"lease": _record_content(record)} | ({"jobs": jobs} if jobs else {})


def _lease_of(content: Any) -> LeaseRecord:
    return _record_of(content["lease"], tuple(map(_record_of, content.get("jobs", ()))))


def _record_content(record: LeaseRecord) -> dict[str, object]:
    """The form that earlier versions write and read, so that replicas can be updated one after the other."""
    return {
        "id": record.id,
        "queue": record.queue,
        "job_id": record.job_id,
        "state": record.state.value,
        "attempt": record.attempt,
        "expires_at_s": record.expires_at_s,
        "place": record.place.value if record.place is not None else "",
        "as_asked": record.as_asked,
    }


def _record_of(content: Any, jobs: tuple[LeaseRecord, ...] = ()) -> LeaseRecord:
    place = Place(content["place"]) if content["place"] else None
    return LeaseRecord(
        id=content["id"],
        queue=content["queue"],
        job_id=content["job_id"],
        attempt=content["attempt"],
        expires_at_s=content["expires_at_s"],
        state=State(content["state"]),
        place=place,
        target=place if content["as_asked"] else None,
        jobs=jobs,
    )


def pack_command(number: int, command: LeaseCommand) -> bytes:
    return orjson.dumps({"n": number, "order": command}) + b"\n"


def unpack_command(line: bytes) -> tuple[int, LeaseCommand]:
    """Raises what `command_of` raises."""
    message = orjson.loads(line)
    return message["n"], command_of(message["order"])


def pack_result(number: int, result: Result) -> bytes:
    return orjson.dumps({"n": number, "result": result_content(result)}) + b"\n"


def unpack_result(line: bytes) -> tuple[int, Result]:
    """Raises what `command_of` raises."""
    message = orjson.loads(line)
    return message["n"], result_of(message["result"])
