"""The envelope gives every body back unchanged, and opens whatever is on a queue."""

import base64
import contextlib
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.api.request.cloudevents import read_heading
from gateway.envelope import read, times
from gateway.envelope.attributes import checked
from gateway.envelope.json_text import BOM, MAX_DEPTH, check_json, members
from gateway.envelope.media import is_media_type
from gateway.envelope.read import body_of, raw, unwrap
from gateway.envelope.rewrite import next_attempt, plain
from gateway.envelope.write import EnqueueContext, wrap, wrap_event
from gateway.errors import InvalidBody, InvalidEvent, InvalidParameter
from tests.lab.examples import examples

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


STAMP = EnqueueContext("/queues/q", 1_700_000_000.25)


def stored(body: bytes, content_type: str | None) -> bytes:
    return wrap(body, content_type, job_id="0a" * 16, stamp=STAMP).data


@pytest.mark.parametrize("text", JSON_TEXTS)
@pytest.mark.parametrize("content_type", ["application/json", "application/vnd.api+json; charset=utf-8", None])
def test_json_is_kept_byte_for_byte(text, content_type):
    """Numbers, spacing, key order and repeated keys of a JSON body come back as they were written."""
    job = unwrap(stored(text, content_type))
    assert body_of(job) == text
    assert (job.member, job.payload) == ("data", text)
    assert job.content_type == (content_type or "application/json")


def test_a_raw_item_is_not_copied():
    """It is delivered as it is; its base64 is made only for an answer that needs it."""
    item = b"\x00raw" * 1000
    job = raw(item)
    assert body_of(job) is item
    assert job.payload == b'"%b"' % base64.b64encode(item)


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
    """An item of another program is delivered byte for byte, whatever it is."""
    job = unwrap(item)
    assert job.id is not None or body_of(job) == item


@pytest.mark.parametrize(
    "broken", [b"", b"{", b"NaN", b"[1,]", b'{"a":1}x', b"\xff", BOM, BOM + BOM + b"{}", b"{}" + BOM]
)
def test_broken_json_is_refused_where_json_was_promised(broken):
    """A body that says it is JSON and is not is an InvalidBody."""
    with pytest.raises(InvalidBody, match=r"not JSON|the body is empty"):
        stored(broken, "application/json")


@pytest.mark.parametrize("content_type", ["application/json", "application/problem+json; charset=utf-8", None])
def test_one_leading_byte_order_mark_is_no_part_of_json(content_type):
    """It is dropped; of text and of bytes, which are not parsed, it is a part."""
    assert body_of(unwrap(stored(BOM + b' {"a": 1}', content_type))) == b' {"a": 1}'
    for other in ("text/plain", "application/octet-stream"):
        assert body_of(unwrap(stored(BOM + b"{}", other))) == BOM + b"{}"
    assert body_of(unwrap(stored(BOM + b"\x00", None))) == BOM + b"\x00"


def nested(levels: int, leaf: bytes = b"1") -> bytes:
    return b"[" * levels + leaf + b"]" * levels


@pytest.mark.parametrize("leaf", [b"1", b'"\\ud800"'])
def test_json_may_be_nested_so_deep(leaf):
    """MAX_DEPTH levels are taken, as a body and in an event, and can be copied; far more are an error that says so."""
    body = nested(MAX_DEPTH, leaf)
    item = stored(body, "application/json")
    assert body_of(unwrap(item)) == body
    assert next_attempt(unwrap(item), item, 2) is not None
    event = b'{"specversion":"1.0","source":"/","type":"t","data":%b}'
    assert body_of(unwrap(wrap_event(event % body, job_id="1", stamp=STAMP).data)) == body
    for levels in (1100, 100_000):
        with pytest.raises(InvalidBody, match=f"^the body is nested too deeply.* {MAX_DEPTH} levels"):
            stored(nested(levels, leaf), "application/json")
        with pytest.raises(InvalidBody, match=f"^the body is nested too deeply.* {MAX_DEPTH} levels"):
            wrap_event(event % nested(levels, leaf), job_id="1", stamp=STAMP)


def test_a_foreign_event_in_any_order_is_an_envelope():
    """An event with its data first and white space between members is opened, and its data is cut out unchanged."""
    job = unwrap(b'{ "data" : {"n": 1.10} , "specversion":"1.0", "id":"7","source":"s","type":"t","subject":"x"}')
    assert (job.id, body_of(job), job.attributes["subject"]) == ("7", b'{"n": 1.10}', "x")


@pytest.mark.parametrize("blank", [b" ", b"\r\n", b"\t \n"])
def test_white_space_around_an_event_changes_nothing(blank):
    """JSON may begin and end with it; other JSON with it is still a raw item."""
    job = unwrap(blank + stored(b"[1]", None) + blank)
    assert (job.id, body_of(job)) == ("0a" * 16, b"[1]")
    assert unwrap(blank + b"[1]").id is None
    assert unwrap(blank).id is None


EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}


@pytest.mark.parametrize(
    ("payload", "member", "body"),
    [
        ({"data": 1, "data_base64": None}, "data", b"1"),
        ({"data_base64": None, "data": 1}, "data", b"1"),
        ({"data": None, "data_base64": "AA=="}, "data_base64", b"\0"),
        ({"data_base64": "AA==", "data": None}, "data_base64", b"\0"),
        ({"data": None, "data_base64": None}, "data", b"null"),
        ({"data": None}, "data", b"null"),
        ({"data_base64": None}, "", b""),
    ],
)
def test_a_payload_that_is_null_beside_another_is_missing(payload, member, body):
    """So it is in an event that comes by HTTP and in one that a memcache client stored; `data` alone may be null."""
    text = json.dumps(EVENT | payload).encode()
    for item in (text, text.replace(b", ", b","), wrap_event(text, job_id="2", stamp=STAMP).data):
        job = unwrap(item)
        assert (job.id, job.member, body_of(job).strip()) == ("1", member, body)


@pytest.mark.parametrize("content_type", [{}, {"datacontenttype": "application/json"}])
def test_without_data_there_is_no_json(content_type):
    """No bytes are no JSON text: an event without data is shown as bytes, of which there are none."""
    job = unwrap(json.dumps(EVENT | content_type).encode())
    assert (job.content_type, body_of(job)) == ("application/octet-stream", b"")


@pytest.mark.parametrize("char", ["\ufdd0", "\ufdef", "\ufffe", "\uffff", "\U0001fffe", "\U0010ffff"])
def test_no_attribute_holds_a_noncharacter(char):
    """CloudEvents strings have none; a reason that an attribute is made of loses it."""
    for name in ("id", "source", "subject", "ext"):
        with pytest.raises(InvalidEvent, match=name):
            checked(EVENT | {name: f"a{char}b"})
    assert plain(f"a{char}b") == "a b"


@pytest.mark.parametrize("name", ["deadreason", "deadtime", "deadqueue", "deadattempts", "readytime"])
def test_what_a_dead_letter_says_is_the_gateway_s(name):
    """And since when a job waits. A producer's own would vanish on its way, so it is not stored in the first place."""
    assert name not in checked(EVENT | {name: "x"})


@pytest.mark.parametrize(
    ("content_type", "good"),
    [
        ("text/plain", True),
        ("text/plain; charset=utf-8;", True),
        ('multipart/mixed; boundary="a,b"; x=----=_1/2', True),
        ("application/vnd.a-b+json ;v=1", True),
        ("not a type", False),
        ("text", False),
        ("text/", False),
        ("*/*", False),
        ("text/*", False),
        ("text/plain, text/html", False),
        ("text/plain; charset=utf-8, text/html", False),
        ('text/plain; a="b', False),
        ("text/plain ", False),
        ("text/plain; x=é", False),
        ("text/plain; x=\x7f", False),
        ("text/" + "x" * 252, False),
    ],
)
def test_what_counts_as_a_media_type(content_type, good):
    """One type with its parameters, no range and no list; the same for a Content-Type and for datacontenttype."""
    assert is_media_type(content_type) == good
    if content_type.isascii() and content_type == content_type.strip():
        headers = [(b"content-type", content_type.encode())]
        with contextlib.nullcontext() if good else pytest.raises(InvalidParameter, match="Content-Type"):
            assert read_heading(headers).content_type == content_type
    with contextlib.nullcontext() if good else pytest.raises(InvalidEvent, match="datacontenttype"):
        checked(EVENT | {"datacontenttype": content_type})


@pytest.mark.parametrize(
    ("expires", "good"), [("9999-12-31T23:59:59.999Z", True), ("9999-12-31T23:59:59-12:00", False)]
)
def test_no_expiry_is_after_the_year_9999(expires, good):
    """RFC 3339 has no later year, and UTC is how `expires` is stored."""
    text = json.dumps(EVENT | {"expires": expires}).encode()
    if good:
        assert unwrap(wrap_event(text, job_id="1", stamp=STAMP).data).event["expires"] == "9999-12-31T23:59:59.999Z"
    else:
        with pytest.raises(InvalidEvent, match="expires"):
            wrap_event(text, job_id="1", stamp=STAMP)


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


PLAIN_HEAD = (
    b'{"specversion":"1.0","id":"7","source":"/queues/q","type":"t","time":"2026-01-01T00:00:00.000Z",'
    b'"enqueued":"2026-01-01T00:00:00.000Z","attempt":1,"datacontenttype":"application/json","data":'
)


@settings(max_examples=examples(300))
@given(
    data=st.sampled_from(
        [b"1", b'{"a":1}', b'"x"', b"", b"1,", b'1,"data":2', b'1,"id":"8"', b"null", b"01", b" [ ] "]
    ),
    at=st.integers(0, len(PLAIN_HEAD)),
    piece=st.sampled_from(
        [b"", b" ", b'"', b"\\", b"0", b'"id":"8",', b'"tenant":"x",', b"9", b"\xc3\xa4", b"\xff", b"}"]
    ),
    cut=st.integers(0, 3),
)
def test_the_short_way_reads_what_the_long_way_reads(data, at, piece, cut):
    """Also an envelope that is damaged or ambiguous anywhere."""
    item = PLAIN_HEAD[:at] + piece + PLAIN_HEAD[at + cut :] + data + b"}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "_plain", lambda _: None)
        expected = unwrap(item)
    assert unwrap(item) == expected


@pytest.mark.parametrize(
    ("field", "text", "plain"),
    [
        (b"2026-01-01T00:00:00.000Z", b"2026-01-01T00:00:00.000Z", True),
        (b'"attempt":1,', b'"attempt":12,"tenant":"acme",', True),
        (b'"attempt":1,', b'"attempt":1000001,', False),
        (b'"attempt":1,', b'"attempt":0,', False),
        (b'"enqueued":"2026-01-01T00', b'"enqueued":"2026-02-31T00', False),
        (b"application/json", b"text/plain", False),
        (b'"id":"7"', b'"id":""', False),
    ],
)
def test_which_envelopes_are_read_the_short_way(field, text, plain):
    """And both ways find the same job."""
    item = PLAIN_HEAD.replace(field, text) + b'"x"}'
    assert (read._plain(item) is not None) is plain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "_plain", lambda _: None)
        expected = unwrap(item)
    assert unwrap(item) == expected


@given(
    second=st.datetimes().map(lambda each: each.isoformat(timespec="seconds")),
    piece=st.sampled_from([".000", ".123", ".999", ".12", ".1234", ".\u0661\u0662\u0663", ",123", ""]),
    zone=st.sampled_from(["Z", "z", "+00:00", ""]),
    edit=st.sampled_from(["", ":60", "T24:", " "]),
)
@example(second="2026-01-01T00:00:00", piece=".\u0661\u0662\u0663", zone="Z", edit="")
@example(second="2016-12-31T23:59:00", piece=".500", zone="Z", edit=":60")
def test_a_timestamp_as_the_gateway_writes_it_is_that_of_rfc_3339(second, piece, zone, edit):
    """The short way accepts and refuses what the whole pattern does, and finds the same instant."""
    text = {
        "": second,
        ":60": second[:-3] + ":60",
        "T24:": second[:10] + "T24:" + second[14:],
        " ": second.replace("T", " "),
    }
    try:
        expected = times._instant(text[edit] + piece + zone)
    except (ValueError, OverflowError) as error:
        with pytest.raises(type(error)):
            times.instant(text[edit] + piece + zone)
    else:
        assert times.instant(text[edit] + piece + zone) == pytest.approx(expected, abs=1e-6)
