"""Jobs as lines of a file: each is a CloudEvent in JSON, with its payload byte for byte. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from typing import Any, Final

_DATA: Final = b',"data":'
_OF_THE_DELIVERY: Final = ("attempt", "lasterror")
"""What differs between two deliveries of one job."""


def line_of_event(event: bytes) -> bytes:
    """An event as the gateway delivers it, in one line.

    JSON may have line breaks between its tokens. Then the payload is written as base64, so that its bytes remain.
    """
    if b"\n" not in event and b"\r" not in event:
        return event
    # The payload is the last member. A text before it cannot contain these bytes: its quotes are escaped.
    head, _, payload = event.partition(_DATA)
    return head + b',"data_base64":"' + base64.b64encode(payload[:-1]) + b'"}'


def line_of_item(job: dict[str, Any]) -> bytes:
    """An item that no gateway stored, in the form of the JSON object, as an event with a new id."""
    event = {
        "specversion": "1.0",
        "id": uuid.uuid4().hex,
        "source": f"/queues/{job['queue']}",
        "type": "kestrel-gateway.item",
        "datacontenttype": job["content_type"],
        **({"data_base64": job["data_base64"]} if "data_base64" in job else {"data": job.get("data")}),
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def identity(line: bytes) -> bytes:
    """The same for two deliveries of one job; different for two jobs, also if they have the same id."""
    event = json.loads(line)
    for name in _OF_THE_DELIVERY:
        event.pop(name, None)
    return hashlib.sha256(json.dumps(event, sort_keys=True).encode()).digest()
