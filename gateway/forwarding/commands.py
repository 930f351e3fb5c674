"""What can be asked of a lease, and the answer, as plain values that travel between workers and replicas. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import orjson

from gateway.errors import GatewayError, Internal, error_classes
from gateway.leases.lease import Ended, Lease, Place, State


class Verb(Enum):
    ACK = "ack"
    NACK = "nack"
    REJECT = "reject"
    EXTEND = "extend"
    INSPECT = "inspect"
    DROP_QUEUE = "drop-queue"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class LeaseCommand:
    """verb: what to do. subject: a lease id, a Kestrel key for DROP_QUEUE, nothing for COUNT. length_s: for EXTEND; of
    NACK the delay.
    position: for NACK, a Place; empty: by policy. reason: for NACK and REJECT.

    deadline_s: monotonic, the same clock in every process of one machine; the owner refuses to begin after it.
    tenant: whose lease it is. hops: how often the order was passed on.
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
        """Whether it is too late to begin."""
        return time.monotonic() > self.deadline_s

    def passed_on(self, deadline_s: float | None = None) -> LeaseCommand:
        """The order as the next one gets it; deadline_s: by his clock, where that is another."""
        return replace(self, hops=self.hops + 1, deadline_s=self.deadline_s if deadline_s is None else deadline_s)


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A lease as its owner knows it. expires_at_s: wall time; of a delayed nack: when it is due.

    place: where the job is, once that is known; empty before. as_asked: whether that is where it was meant to go.
    """

    id: str
    queue: str
    job_id: str | None
    state: str
    attempt: int
    expires_at_s: float
    place: str = ""
    as_asked: bool = True

    @property
    def due_at_s(self) -> float | None:
        """When a delayed nack is due; None for all else."""
        return self.expires_at_s if self.state == State.DELAYED.value else None


Sample = tuple[str, tuple[str, ...], float]
"""A figure: its name, the values of its labels, and how much it is."""


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """What one worker has counted, read at one instant. worker: its number among those of its gateway."""

    worker: int
    samples: tuple[Sample, ...]


Result = LeaseView | WorkerFigures | int | GatewayError


def view(lease: Lease | Ended, asked: Place | None = None) -> LeaseView:
    """asked: the place that this order named; the one that settled the lease may have named another."""
    place = lease.target if lease.state is State.DELAYED else lease.place
    return LeaseView(
        lease.id,
        lease.queue,
        lease.job_id,
        lease.state.value,
        lease.attempt,
        lease.expires_at_s,
        place.value if place is not None else "",
        place is (asked or lease.target),
    )


def order_of(content: Any) -> LeaseCommand:
    """The order in its JSON form. Raises ValueError, KeyError or TypeError for what no such gateway writes."""
    return LeaseCommand(**content | {"verb": Verb(content["verb"])})


def result_content(result: Result) -> dict[str, object]:
    """A result as JSON has it."""
    match result:
        case GatewayError():
            return {"error": type(result).__name__, "detail": result.detail}
        case int():
            return {"count": result}
        case WorkerFigures():
            return {"figures": result}
        case _:
            return {"lease": result}


def result_of(content: Any) -> Result:
    """The result in its JSON form. Raises as `order_of`."""
    if "error" in content:
        return error_classes().get(content["error"], Internal)(content["detail"])
    if "count" in content:
        return int(content["count"])
    if "figures" in content:
        samples = ((name, tuple(labels), value) for name, labels, value in content["figures"]["samples"])
        return WorkerFigures(content["figures"]["worker"], tuple(samples))
    return LeaseView(**content["lease"])


def pack_order(number: int, order: LeaseCommand) -> bytes:
    return orjson.dumps({"n": number, "order": order}) + b"\n"


def unpack_order(line: bytes) -> tuple[int, LeaseCommand]:
    """Raises as `order_of`."""
    message = orjson.loads(line)
    return message["n"], order_of(message["order"])


def pack_result(number: int, result: Result) -> bytes:
    return orjson.dumps({"n": number, "result": result_content(result)}) + b"\n"


def unpack_result(line: bytes) -> tuple[int, Result]:
    """Raises as `order_of`."""
    message = orjson.loads(line)
    return message["n"], result_of(message["result"])
