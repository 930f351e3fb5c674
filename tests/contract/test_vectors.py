"""docs/vectors against the code, case by case; tests/foreign puts the same items on a live queue."""

import base64
import json
from pathlib import Path

import pytest

from gateway.api.request.cloudevents import one_item, read_heading
from gateway.api.response.rendering import render
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.read import unwrap
from gateway.envelope.times import instant, wire_expiry
from gateway.envelope.write import EnqueueContext
from gateway.names.namespace import Name, Namespace

VECTORS = Path(__file__).resolve().parents[2] / "docs" / "vectors"


def load(name: str) -> dict:
    return json.loads((VECTORS / f"{name}.json").read_text())


def given(case: dict, name: str) -> bytes:
    """The bytes of a vector, which it has as text, or as base64 if they are not printable."""
    return base64.b64decode(case[f"{name}_base64"]) if f"{name}_base64" in case else case[name].encode()


def cases(name: str):
    found = load(name)["cases"]
    return pytest.mark.parametrize("case", found, ids=[each["name"] for each in found])


@cases("enqueue")
def test_an_enqueue_stores_these_very_bytes(case):
    """The item and its expiry are as the vector says."""
    whole, request = load("enqueue"), case["request"]
    now_s = instant(whole["now"])
    heading = read_heading([(name.lower().encode(), text.encode()) for name, text in request["headers"].items()])
    ttl = request.get("query", {}).get("ttl")
    stamp = EnqueueContext(
        f"/queues/{whole['queue']}",
        now_s,
        now_s + float(ttl) if ttl else None,
        case.get("tenant", ""),
        heading.traceparent,
        heading.tracestate,
        request["headers"].get("Ordering-Key", ""),
    )
    item = one_item(heading, given(request, "body"), stamp, whole["id"])
    assert item.data.decode() == case["item"]
    assert wire_expiry(item.expires_s, now_s) == case["expiry"]


@cases("enqueue")
def test_what_was_enqueued_is_delivered_as_it_was(case):
    """An item of the first vectors gives back the body and the type of its request, where that was no event."""
    job = unwrap(case["item"].encode())
    body, headers = render(job, Queue("", "emails", "emails"), 1, raw=True)
    sent = {name.lower(): text for name, text in case["request"]["headers"].items()}
    if sent.get("content-type") != "application/cloudevents+json":
        assert body == given(case["request"], "body")
        assert sent.get("content-type", job.content_type) == dict(headers)[b"content-type"].decode()


@cases("delivery")
def test_an_item_is_delivered_so(case):
    """The JSON answer, and the job's own bytes with their type, are as the vector says."""
    job = unwrap(given(case, "item"))
    queue = Queue("", load("delivery")["queue"], "key")
    body, headers = render(job, queue, job.attempt)
    assert dict(headers)[b"content-type"] == b"application/json"
    assert json.loads(body) == case["object"]
    body, headers = render(job, queue, job.attempt, raw=True)
    assert (body, dict(headers)[b"content-type"].decode()) == (given(case, "bytes"), case["content_type"])


@cases("names")
def test_a_name_has_this_key(case):
    """Keys are as the vector says, and mean the same name."""
    namespace = Namespace(case["namespace"], bool(case["tenant"]))
    name = Name(case["tenant"], case["queue"], case.get("child"), case.get("dead", False))
    assert namespace.key(name) == case["key"]
    assert namespace.read(case["key"]) == name
