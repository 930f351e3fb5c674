"""The messages between a worker and the counter of places: lines of JSON on a Unix socket in the run directory.

A worker sends what happens to its places; the counter sends one reply to each place that was asked for. When the
connection ends, all places of the worker are free.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from gateway.delivery.caps.counter import CapCounter, CapLimits, CapReason, CapReply, PlaceId

SOCKET: Final = "caps.sock"
ASK, STOP, LEASED, HOLD, LIMIT, DONE = "ask", "stop", "leased", "hold", "limit", "done"


def message(event: str, number: int, key: str = "", limits: CapLimits | None = None) -> bytes:
    """What happens to the place with the number. key, limits: for ASK, HOLD and LIMIT."""
    content: dict[str, Any] = {"event": event, "n": number}
    if limits is not None:
        content |= {"key": key, "max_in_flight": limits.max_in_flight, "rate": limits.rate}
    return orjson.dumps(content) + b"\n"


def receive(counter: CapCounter, holder: str, line: bytes, now: float) -> list[CapReply]:
    """Carries out one message of the worker. Raises ValueError, KeyError, TypeError if no worker can have sent it."""
    content = orjson.loads(line)
    event, place = content["event"], PlaceId(holder, content["n"])
    if event in (ASK, HOLD, LIMIT):
        limits = CapLimits(content["max_in_flight"], content["rate"])
        if event == LIMIT:
            return counter.limit(content["key"], limits, now)
        return (counter.ask if event == ASK else counter.hold)(place, content["key"], limits, now)
    return {STOP: counter.stop, LEASED: counter.leased, DONE: counter.done}[event](place, now)


def pack_reply(reply: CapReply) -> bytes:
    return orjson.dumps({"n": reply.place.number, "reason": reply.reason and reply.reason.value}) + b"\n"


def unpack_reply(line: bytes) -> tuple[int, CapReason | None]:
    """The number of the place, and why it was not given; None: it was."""
    content = orjson.loads(line)
    return content["n"], None if content["reason"] is None else CapReason(content["reason"])
