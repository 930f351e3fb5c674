"""What can be asked of a lease, and the answer, as plain values that travel between workers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import orjson

from gateway.errors import GatewayError, Internal, error_classes
from gateway.leases.lease import Ended, Lease, State


class Verb(Enum):
    ACK = "ack"
    NACK = "nack"
    REJECT = "reject"
    EXTEND = "extend"
    INSPECT = "inspect"
    DROP_QUEUE = "drop-queue"


@dataclass(frozen=True, slots=True)
class Order:
    """verb: what to do. subject: a lease id, or a Kestrel key for DROP_QUEUE. length_s: for EXTEND; of NACK the delay.
    position: for NACK, a Place; empty: by policy. reason: for NACK and REJECT.

    deadline_s: monotonic, the same clock in every process of one machine; the owner refuses to begin after it.
    """

    verb: Verb
    subject: str
    deadline_s: float
    length_s: float = 0.0
    position: str = ""
    reason: str = ""


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


Result = LeaseView | int | GatewayError


def view(lease: Lease | Ended) -> LeaseView:
    place = lease.aim if lease.state is State.DELAYED else lease.place
    return LeaseView(
        lease.id,
        lease.queue,
        lease.job_id,
        lease.state.value,
        lease.attempt,
        lease.expires_at_s,
        place.value if place is not None else "",
        place is lease.aim,
    )


def pack_order(number: int, order: Order) -> bytes:
    return orjson.dumps({"n": number, "order": order}) + b"\n"


def unpack_order(line: bytes) -> tuple[int, Order]:
    message = orjson.loads(line)
    return message["n"], Order(**message["order"] | {"verb": Verb(message["order"]["verb"])})


def pack_result(number: int, result: Result) -> bytes:
    match result:
        case GatewayError():
            content: object = {"error": type(result).__name__, "detail": result.detail}
        case int():
            content = {"count": result}
        case _:
            content = {"lease": result}
    return orjson.dumps({"n": number, "result": content}) + b"\n"


def unpack_result(line: bytes) -> tuple[int, Result]:
    """Raises ValueError or KeyError for a line that no worker of this version writes."""
    message = orjson.loads(line)
    content = message["result"]
    if "error" in content:
        return message["n"], error_classes().get(content["error"], Internal)(content["detail"])
    if "count" in content:
        return message["n"], int(content["count"])
    return message["n"], LeaseView(**content["lease"])
