"""Jobs as lines of a file: each is a CloudEvent in JSON, with its payload byte for byte. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import uuid
from typing import Final

from gateway.client.json_parts import elements, members

EVENT: Final = "application/cloudevents+json"
EVENTS: Final = "application/cloudevents-batch+json"
_DATA: Final = b',"data":'
_OF_THE_DELIVERY: Final = ("attempt", "readytime", "lasterror", "datacontenttype", "tenant")
"""What two deliveries of one job may show differently."""


def lines_of(answer: bytes, content_type: str) -> list[bytes]:
    """The jobs in an answer to `next`, in their order, one line each. Raises ValueError if it is not such an answer."""
    if content_type.startswith(EVENTS):
        return [_line_of_event(each) for each in elements(answer)]
    if content_type.startswith(EVENT):
        return [_line_of_event(answer)]
    found = members(answer)
    return [_line_of_job(members(each)) for each in (elements(found["jobs"]) if "jobs" in found else [answer])]


def identity(line: bytes) -> bytes:
    """The same for two deliveries of one job; different for two jobs, also if they have the same id.

    Raises ValueError if the line is not a JSON object.
    """
    event = members(line)
    for name in _OF_THE_DELIVERY:
        event.pop(name, None)
    if event.get("enqueued") == event.get("time"):  # the object form has one of them only
        event.pop("enqueued", None)
    return hashlib.sha256(b"\n".join(b"%b %b" % (name.encode(), event[name]) for name in sorted(event))).digest()


def payload(line: bytes) -> bytes:
    """The payload of an event with its type, as a job object. What is not a JSON object remains, and is refused."""
    try:
        event = members(line)
    except ValueError:
        return line
    names = {"data": "data", "data_base64": "data_base64", "datacontenttype": "content_type"}
    job = {new: event[old] for old, new in names.items() if old in event}
    if "data" not in job:
        job = {"data_base64": job.get("data_base64", b'""')}
    return _object(job)


def _object(members_of_it: dict[str, bytes]) -> bytes:
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in members_of_it.items())


def _line_of_event(event: bytes) -> bytes:
    """An event as the gateway delivers it, in one line.

    JSON may have line breaks between its tokens. Then the payload is written as base64, so that its bytes remain.
    """
    if b"\n" not in event and b"\r" not in event:
        return event
    # The payload is the last member. A text before it cannot contain these bytes: its quotes are escaped.
    head, _, payload = event.partition(_DATA)
    return head + b',"data_base64":"' + base64.b64encode(payload[:-1]) + b'"}'


def _line_of_job(job: dict[str, bytes]) -> bytes:
    """A job in the form of the JSON object. A raw item gets a new id, so it becomes an event."""
    event = {"specversion": b'"1.0"', "id": job["id"]}
    if job["id"] == b"null":
        event["id"] = b'"%b"' % uuid.uuid4().hex.encode()
        event["source"] = b'"/queues/%b"' % job["queue"].strip(b'"')
        event["type"] = b'"kestrel-gateway.item"'
    else:
        event |= members(job["attributes"])
        if job["enqueued_at"] != b"null":
            event["enqueued"] = job["enqueued_at"]
    event["datacontenttype"] = job["content_type"]
    event |= {name: job[name] for name in ("data", "data_base64") if name in job}
    return _line_of_event(_object(event))
