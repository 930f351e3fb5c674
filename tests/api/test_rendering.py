"""Rendering: whatever is on a queue and whatever Accept says, the answer is valid HTTP."""

import json
import re
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.response.rendering import MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTE_HEADERS, render
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.read import body_of, unwrap
from tests.lab.examples import examples

QUEUE = Queue("acme", "emails", "acme__emails")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ATTRIBUTES = st.dictionaries(
    TEXT | st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8), TEXT | st.integers() | st.booleans()
)
KNOWN = st.fixed_dictionaries(
    {},
    optional={
        name: TEXT | st.integers() | st.none() | st.just("text/plain")
        for name in ("datacontenttype", "attempt", "enqueued", "expires", "tenant", "traceparent", "tracestate", "time")
    },
)
ITEMS = st.binary(max_size=60) | st.builds(
    lambda attributes, known, data: json.dumps(
        attributes | known | {"specversion": "1.0", "id": "1\r\n", "source": "\x00", "type": "é"} | data
    ).encode(),
    ATTRIBUTES,
    KNOWN,
    st.sampled_from([{}, {"data": "text"}, {"data": {"a": 1}}, {"data_base64": "AA=="}]),
)
ACCEPTS = TEXT | st.sampled_from(["*/*", "text/*", "application/cloudevents+json", "text/plain;q=0.5, */*;q=0.1"])


@settings(max_examples=examples(150))
@given(item=ITEMS, accept=ACCEPTS, raw=st.booleans())
def test_every_item_can_be_rendered(item, accept, raw):
    """No header holds a byte that it may not, JSON is JSON, and `format=raw` is the job's own bytes."""
    job = unwrap(item)
    body, headers = render(job, QUEUE, 3, accept=accept, raw=raw)
    assert all(re.fullmatch(rb"[a-z0-9-]+", name) for name, _ in headers)
    assert all(re.fullmatch(rb"[ -~]*", value) for _, value in headers)
    assert sum(len(name) + len(value) + 4 for name, value in headers) < MAX_ATTRIBUTE_BYTES + 2048
    assert len(headers) < MAX_ATTRIBUTE_HEADERS + 10
    content_type = dict(headers)[b"content-type"]
    if raw:
        assert body == body_of(job)
    elif content_type in (b"application/json", b"application/cloudevents+json"):
        assert json.loads(body)["attempt"] == 3


def test_the_tenant_is_the_queue_s():
    """An event that claims another tenant is delivered as its queue's; the object does not tell tenants at all."""
    item = b'{"specversion":"1.0","id":"1","source":"/","type":"t","tenant":"other","data":1}'
    body, _ = render(unwrap(item), QUEUE, 1, accept="application/cloudevents+json")
    assert json.loads(body)["tenant"] == "acme"
    body, headers = render(unwrap(item), QUEUE, 1, raw=True)
    assert dict(headers)[b"ce-tenant"] == b"acme"
    body, _ = render(unwrap(item), QUEUE, 1)
    assert b"other" not in body
    body, _ = render(unwrap(item), Queue("", "emails", "emails"), 1, accept="application/cloudevents+json")
    assert "tenant" not in json.loads(body)
