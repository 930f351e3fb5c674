"""The names in spans: operations, attributes and errors. No other module knows one.

1. A span is named `{operation} {queue}`, such as `ack emails`.
2. Attributes that the conventions do not have begin with `messaging.kestrel.`.
3. No attribute holds a payload, a key or a lease id.

Source: OpenTelemetry semantic conventions 1.44.0, docs/messaging/messaging-spans.md ("Span name", "Span kind", and the
attributes of send, receive and settle spans). They count a delivery to a client that asks for it as `receive`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from opentelemetry.trace import SpanKind

from gateway.envelope.rewrite import DeadReason
from gateway.leases.known import OUTCOME_NAMES
from gateway.leases.lease import State

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

SYSTEM: Final = "messaging.system"
SYSTEM_NAME: Final = "kestrel"
DESTINATION: Final = "messaging.destination.name"
SUBSCRIPTION: Final = "messaging.destination.subscription.name"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGE_ID: Final = "messaging.message.id"
BODY_SIZE: Final = "messaging.message.body.size"
BATCH_COUNT: Final = "messaging.batch.message_count"
ERROR_TYPE: Final = "error.type"

TENANT: Final = "messaging.kestrel.tenant"
REQUEST_ID: Final = "messaging.kestrel.request.id"
ATTEMPT: Final = "messaging.kestrel.message.attempt"
PLACE: Final = "messaging.kestrel.message.place"

MESSAGE_ID_CHARS: Final = 128
"""A longer id is cut: an event may bring one of any length."""
PARTLY_STORED: Final = "partly-stored"
"""The error of an enqueue of which some jobs are not stored, as in the code of problems."""


class SpanOperation(NamedTuple):
    """What a span is about. error: the `error.type` that it always has; empty: none."""

    name: str
    type: str
    kind: SpanKind
    error: str = ""


ENQUEUE: Final = SpanOperation("enqueue", "send", SpanKind.PRODUCER)
NEXT: Final = SpanOperation("next", "receive", SpanKind.CLIENT)
REDRIVE: Final = SpanOperation("redrive", "send", SpanKind.CLIENT)
"""A client and no producer, because the jobs keep the context of their enqueue."""
DEAD_LETTER: Final = SpanOperation("dead-letter", "settle", SpanKind.CLIENT, DeadReason.MAX_ATTEMPTS.value)
"""Instead of a delivery: the job was delivered too often."""
_SETTLEMENTS: Final = {
    State.ACKED: "ack",
    State.NACKED: "nack",
    State.DELAYED: "nack",
    State.REJECTED: "reject",
}


def settlement(state: State) -> SpanOperation:
    """How a lease has ended. A consumer that settles is no error; every other end is one."""
    if state in _SETTLEMENTS:
        return SpanOperation(_SETTLEMENTS[state], "settle", SpanKind.CLIENT)
    return SpanOperation(
        "expire" if state is State.EXPIRED else "settle", "settle", SpanKind.CLIENT, OUTCOME_NAMES[state]
    )
