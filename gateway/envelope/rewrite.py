"""Rewriting a stored item: with a delay, for its next attempt, as a dead letter, and back to its queue. Pure functions.

1. The payload keeps its bytes, including white space around it, and so does every attribute that is not named here.
2. A copy has the id and the expiry of the original.
3. A job that was delayed, or was a dead letter, has `readytime`: since when it waits, RFC 3339.
4. A dead letter has `attempt` 1 on its new queue. `deadattempts` says how often it was delivered before.

   deadreason    rejected, or max-attempts
   deadtime      when it became a dead letter, RFC 3339
   deadqueue     the queue it comes from, by its tenant's name
   deadattempts  how often it was delivered there

An item that is not an envelope is wrapped for the dead letters (`raw`: true, type kestrel-gateway.raw), and unwrapped
on its way back.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from enum import Enum

import orjson

from gateway.common.counted import counted
from gateway.envelope.attributes import NOT_IN_STRINGS, PAYLOAD
from gateway.envelope.json_text import members
from gateway.envelope.media import BYTES_TYPE
from gateway.envelope.read import MAX_ATTEMPT, Job, body_of, unwrap
from gateway.envelope.times import timestamp
from gateway.envelope.write import Item, new_id

RAW_TYPE = "kestrel-gateway.raw"
MAX_ERROR = 1000
_LAST = 300
_BEGIN = b'{"specversion":"1.0",'
_DEAD = ("deadreason", "deadtime", "deadqueue", "deadattempts")

_NOT_IN_STRINGS = re.compile(f"[{NOT_IN_STRINGS}]+")


class DeadReason(Enum):
    """Why a job became a dead letter."""

    REJECTED = "rejected"
    MAX_ATTEMPTS = "max-attempts"


@dataclass(frozen=True, slots=True)
class DeadLetterMarks:
    """The attributes of a dead letter. queue: where it comes from. at_s: wall time. error: empty if none is known."""

    dead_reason: DeadReason
    queue: str
    attempts: int
    at_s: float
    error: str = ""


def has_known_ttl(job: Job, item: bytes) -> bool:
    """Whether the envelope says when Kestrel drops the item: if the gateway stored it (`enqueued`), or with `expires`.

    An expiry that a memcache client gave on the wire cannot be read back, so a copy would lose it.
    """
    if job.expires_s is not None:
        return True
    return "enqueued" in job.event and "expires" not in (_attributes(job, item) or {"expires": b""})


def delayed(item: bytes, ready_s: float) -> bytes:
    """The envelope, as gateway.envelope.write makes it, of a job that waits from then on, wall time."""
    return b'%b"readytime":"%b",%b' % (_BEGIN, timestamp(ready_s).encode(), item.removeprefix(_BEGIN))


def next_attempt(job: Job, item: bytes, attempt: int, error: str = "", ready_s: float = 0.0) -> Item | None:
    """The same job as attempt number `attempt`; None if it is not an envelope. error: why it is attempted again.
    ready_s: since when it waits, wall time; 0: as before.
    """
    if job.id is None:
        return None
    changes: dict[str, object] = {"attempt": min(attempt, MAX_ATTEMPT)}
    if error:
        changes["lasterror"] = plain(error)
    if ready_s:
        changes["readytime"] = timestamp(ready_s)
    data = _changed(job, item, changes)
    return None if data is None else Item(job.id, data, job.expires_s)


def dead_letter(job: Job, item: bytes, marks: DeadLetterMarks) -> Item:
    """The job as a dead letter, which Kestrel never drops. Its `expires` is kept for the way back."""
    added: dict[str, object] = {
        "attempt": 1,
        "deadreason": marks.dead_reason.value,
        "deadtime": timestamp(marks.at_s),
        "deadqueue": marks.queue,
        "deadattempts": min(marks.attempts, MAX_ATTEMPT),
    }
    if marks.error:
        added["lasterror"] = plain(marks.error)
    data = _changed(job, item, added) if job.id is not None else None
    if data is not None and job.id is not None:
        return Item(job.id, data)
    letter_id = new_id()
    head = {"specversion": "1.0", "id": letter_id, "source": f"/queues/{marks.queue}", "type": RAW_TYPE, "raw": True}
    text = orjson.dumps(head | added | {"datacontenttype": BYTES_TYPE})
    return Item(letter_id, b'%b,"data_base64":"%b"}' % (text[:-1], base64.b64encode(item)))


def restored(letter: bytes, ready_s: float = 0.0) -> Item:
    """The content of a dead letter, for its queue: the job as a first attempt, or the original bytes of a raw item.
    ready_s: as for `next_attempt`.

    An item that is not one of our dead letters is returned unchanged.
    """
    job = unwrap(letter)
    if job.event.get("type") == RAW_TYPE and job.event.get("raw") is True and "enqueued" not in job.event:
        return Item(job.id or "", body_of(job))
    if job.id is None or "deadqueue" not in job.event:
        return Item("", letter)
    ready = {"readytime": timestamp(ready_s)} if ready_s else {}
    data = _changed(job, letter, {"attempt": 1} | ready | dict.fromkeys(_DEAD))
    return Item(job.id, letter if data is None else data, job.expires_s)


def plain(error: str) -> str:
    """The error as an attribute can hold it: one line without control characters, at most MAX_ERROR characters.

    A longer one keeps its beginning and its end, where most reports say what happened, with a mark in between.
    """
    if len(error) <= 2 * MAX_ERROR:
        line = _line(error)
        if len(line) <= MAX_ERROR:
            return line
        error = line
    mark = f" [... cut, {counted(len(error), 'character')} in all ...] "
    first = MAX_ERROR - _LAST - len(mark)
    return _line(error[:first]) + mark + _line(error[-_LAST:])


def _line(text: str) -> str:
    return _NOT_IN_STRINGS.sub(" ", text).strip()


def _changed(job: Job, item: bytes, changes: dict[str, object]) -> bytes | None:
    """The envelope with changed attributes (None removes one), payload last. None if it cannot be written.

    The payload is the one that consumers get (`job`): reading it again might not give the same bytes.
    """
    found = _attributes(job, item)
    if found is None:
        return None
    try:
        parts = [(name, value) for name, value in found.items() if name not in changes]
        parts += [(name, orjson.dumps(value)) for name, value in changes.items() if value is not None]
        if job.member:
            parts.append((job.member, job.payload))
        return b"{%b}" % b",".join(b"%b:%b" % (orjson.dumps(name), value) for name, value in parts)
    except orjson.JSONEncodeError:
        return None  # a name with a lone surrogate


def _attributes(job: Job, item: bytes) -> dict[str, bytes] | None:
    """The envelope's members except its payload, each with its original bytes. None if they cannot be separated.

    If the payload is the last member, as the gateway writes it, it is cut off and not read again.
    """
    payload = b',"%b":%b}' % (job.member.encode(), job.payload)
    found = members(item.removesuffix(payload) + b"}") if job.member and item.endswith(payload) else None
    if found is None:
        found = members(item)
    return None if found is None else {name: value for name, value in found.items() if name not in PAYLOAD}
