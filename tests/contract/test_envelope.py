"""The envelope gives every body back as it came, and opens whatever lies on a queue."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract.envelope import body_of, unwrap
from gateway.contract.item import Stamp, wrap
from gateway.contract.json_text import check_json, members
from gateway.errors import InvalidBody

JSON_TEXTS = [
    b"12345678901234567890123",
    b"1.10",
    b"1e400",
    b'{"b":1,"a":2,"b":3}',
    b' { "spaced" : [ 1 , 2 ] } \n',
    b'"\\ud800"',
    b'{"data":{"specversion":"1.0"},"data_base64":"x"}',
    b"1" * 5000,
]
TYPES = st.sampled_from(
    [None, "text/plain", "text/html; charset=utf-8", "text/plain; charset=latin-1", "application/x-www-form-urlencoded"]
    + ["application/octet-stream", "image/png", "application/xml"]
)


def stored(body: bytes, content_type: str | None) -> bytes:
    stamp = Stamp("/queues/q", 1_700_000_000.25)
    return wrap(body, content_type, job_id="0a" * 16, stamp=stamp).data


@pytest.mark.parametrize("text", JSON_TEXTS)
@pytest.mark.parametrize("content_type", ["application/json", "application/vnd.api+json; charset=utf-8", None])
def test_json_is_kept_byte_for_byte(text, content_type):
    """Numbers, spacing, key order and repeated keys of a JSON body come back as they were written."""
    job = unwrap(stored(text, content_type))
    assert body_of(job) == text
    assert (job.member, job.payload) == ("data", text)
    assert job.content_type == (content_type or "application/json")


@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode), TYPES)
def test_any_body_of_any_type_comes_back(body, content_type):
    """Whatever the bytes and the type, both come back, and the item is one JSON object."""
    item = stored(body, content_type)
    job = unwrap(item)
    assert body_of(job) == body
    assert content_type is None or job.content_type == content_type
    assert job.id == "0a" * 16
    assert job.attempt == 1
    json.loads(item)


@given(st.binary(max_size=300))
def test_any_item_can_be_opened(item):
    """An item of somebody else is delivered byte for byte, whatever it is."""
    job = unwrap(item)
    assert job.id is not None or body_of(job) == item


@pytest.mark.parametrize(
    "broken", [b"", b"{", b"NaN", b"[1,]", b'{"a":1}x', b"\xff", b"\xef\xbb\xbf{}", b"[" * 100_000]
)
def test_broken_json_is_refused_where_json_was_promised(broken):
    """A body that says it is JSON and is not is an InvalidBody."""
    with pytest.raises(InvalidBody, match="not JSON"):
        stored(broken, "application/json")


def test_a_foreign_event_in_any_order_is_an_envelope():
    """An event whose data stands first and whose members are spaced out is opened, its data cut out untouched."""
    job = unwrap(b'{ "data" : {"n": 1.10} , "specversion":"1.0", "id":"7","source":"s","type":"t","subject":"x"}')
    assert (job.id, body_of(job), job.attributes["subject"]) == ("7", b'{"n": 1.10}', "x")


@pytest.mark.parametrize(
    "item",
    [
        b'{"specversion":"1.0","id":"1","source":"s"}',
        b'{"specversion":"0.3","id":"1","source":"s","type":"t"}',
        b'{"specversion":"1.0","id":"","source":"s","type":"t"}',
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","x":{}}',
        b'{"specversion":"1.0","id":"1","id":"2","source":"s","type":"t"}',
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":1,"data_base64":"AA=="}',
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"%%"}',
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/plain","data":{}}',
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":1}}',
    ],
)
def test_what_is_almost_an_event_is_a_raw_item(item):
    """An object that breaks the CloudEvents rules is delivered as bytes, not half understood."""
    job = unwrap(item)
    assert job.id is None
    assert body_of(job) == item


@pytest.mark.parametrize("attempt", ["0", "-1", "true", '"3"', "1000001", "1.5"])
def test_an_impossible_attempt_counts_as_the_first(attempt):
    """A foreign event cannot make the gateway believe an attempt outside 1 to a million."""
    item = b'{"specversion":"1.0","id":"1","source":"s","type":"t","attempt":%b,"data":1}' % attempt.encode()
    assert unwrap(item).attempt == 1


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each, max_size=3)))
def test_members_are_cut_where_a_parser_sees_them(value):
    """The bytes cut out for each member parse to what a whole parse gives."""
    whole = {"first": value, "sécond": [value], "": "x"}
    found = members(json.dumps(whole, indent=1, ensure_ascii=False).encode(errors="surrogatepass"))
    if found is not None:
        assert {name: json.loads(text) for name, text in found.items()} == whole
    else:
        assert any("\ud800" <= char <= "\udfff" for char in json.dumps(whole, ensure_ascii=False))


@given(st.text(alphabet='{}[]":,0123456789.eE+-\\u truefalsn', max_size=30))
def test_what_counts_as_json_is_what_a_strict_parser_takes(text):
    """check_json agrees with the standard parser, its extensions NaN and Infinity aside."""

    def refuse(constant):
        raise ValueError(constant)

    def ours():
        try:
            check_json(text.encode())
        except ValueError:
            return False
        return True

    try:
        json.loads(text, parse_constant=refuse)
        theirs = True
    except ValueError:
        theirs = False
    assert ours() == theirs
