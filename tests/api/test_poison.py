"""No item, whatever a memcache client puts, is an error for its consumers: it is shown one way or another."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import items
from tests.lab.broker import BrokerProcess
from tests.lab.examples import examples
from tests.lab.gateway import running

NAMES = st.sampled_from(
    ['"a"', '"a"', r'"a\udc00"', '""', '"A b"', '"\u00e9"', '"data"', '"id"', f'"{"n" * 5000}"', r'"\u0000"']
)
VALUES = st.recursive(
    st.sampled_from(
        ["1", "-0", "1.10", "1e400", "9" * 30, str(2**63), "true", "null", '""', '"x\\r\\ny"', r'"\ud800"', '"\u00e9"']
        + [
            f'"{"v" * 5000}"',
            '"2026-01-01T00:00:00Z"',
            '"0001-01-01T00:00:00+23:59"',
            '"text/plain"',
            '"AA=="',
            '"1.0"',
        ]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: f"[{','.join(each)}]"),
        st.tuples(st.integers(1, 1200), inner).map(lambda each: "[" * each[0] + each[1] + "]" * each[0]),
    ),
    max_leaves=4,
)
KNOWN = st.sampled_from(
    [
        '"attempt"', '"enqueued"', '"expires"', '"time"', '"tenant"', '"lasterror"', '"datacontenttype"', '"subject"',
        '"traceparent"', '"tracestate"', '"raw"', '"deadqueue"', '"deadattempts"', '"type"', '"data"', '"data_base64"',
    ]
)  # fmt: skip
MEMBERS = st.lists(st.tuples(st.one_of(NAMES, KNOWN), VALUES).map(": ".join), max_size=8)
ENVELOPES = st.tuples(MEMBERS, MEMBERS).map(
    lambda parts: "{" + ",".join([*parts[0], '"specversion":"1.0","id":"1","source":"s","type":"t"', *parts[1]]) + "}"
)


@settings(max_examples=examples(150))
@given(st.one_of(st.binary(max_size=80), ENVELOPES.map(str.encode)))
def test_every_item_is_shown_in_every_form_and_can_be_copied(item):
    """Arbitrary bytes, and envelopes with whatever a member may be."""
    items.one(item)


POISON = {
    "surrogate-name": items.EVENT % rb',"a\udc00":1,"data":1',
    "surrogate-value": items.EVENT % rb',"a":"\ud800","data":1',
    "empty-name": items.EVENT % b',"":"x","data":1',
    "huge-name": items.EVENT % (b',"%b":1,"data":1' % (b"n" * 100_000)),
    "twice": items.EVENT % b',"a":1,"a":2,"data":1',
    "not-ascii": items.EVENT % ',"\u00e9\u4e2d":"\u00fc","data":1'.encode(),
    "number": items.EVENT % b',"n":123456789012345678901234567890,"m":1e400,"data":1',
    "deep": items.EVENT % (b',"a":' + b"[" * 3000 + b"]" * 3000 + b',"data":1'),
    "deep-data": items.EVENT % (b',"data":' + b"[" * 3000 + b"]" * 3000),
    "line-end": items.EVENT % b',"a":"x\\r\\nSet-Cookie: y","data":1',
    "many": items.EVENT % (b"".join(b',"a%d":1' % number for number in range(3000)) + b',"data":1'),
    "expires": items.EVENT % b',"expires":"9999-12-31T23:59:59-23:59","data":1',
    "bytes": bytes(range(256)),
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with BrokerProcess(tmp_path_factory.mktemp("broker") / "data", "--fsync", "off") as started:
        yield started


@pytest.fixture(scope="module")
def http(broker, tmp_path_factory):
    with running(tmp_path_factory.mktemp("gateway") / "data", "--kestrel", f"127.0.0.1:{broker.port}") as gateway:
        with gateway.client() as client:
            yield client


@pytest.mark.parametrize("name", POISON)
def test_a_poison_item_is_delivered(broker, http, name):
    """Peeked at, taken, given back, rejected, looked at among the dead letters, brought back, and acked."""
    queue, item = f"poison-{name}", POISON[name]
    client = broker.client()
    client.send(b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(item), item))
    assert client.read(8) == b"STORED\r\n"
    forms = [
        ({}, {}),
        ({}, {"format": "raw"}),
        ({"Accept": "application/cloudevents+json"}, {}),
        ({"Accept": "text/*"}, {}),
    ]
    for headers, query in forms:
        assert http.get(f"/queues/{queue}/peek", headers=headers, params=query).status_code == 200
        taken = http.get(f"/queues/{queue}/next", headers=headers, params={"timeout": 5, **query})
        assert taken.status_code == 200
        assert http.post(f"/leases/{taken.headers['lease-id']}/nack").status_code in (200, 204)
    taken = http.get(f"/queues/{queue}/next", params={"timeout": 5})
    assert http.post(f"/leases/{taken.headers['lease-id']}/reject", json={"reason": "no"}).status_code in (200, 204)
    assert http.get(f"/queues/{queue}/dead-letters/peek").status_code == 200
    assert http.post(f"/queues/{queue}/redrive").json()["redriven"] == 1
    again = http.get(f"/queues/{queue}/next", params={"timeout": 5})
    shown, before = again.json(), taken.json()
    assert (shown.get("data"), shown.get("data_base64")) == (before.get("data"), before.get("data_base64"))
    if before["id"] is None:
        assert base64.b64decode(json.loads(taken.content)["data_base64"]) == item
    assert http.post(f"/leases/{again.headers['lease-id']}/ack").status_code == 204
