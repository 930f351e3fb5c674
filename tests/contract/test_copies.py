"""Copies of stored items: for the next attempt, as dead letters, and back."""

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.envelope.json_text import MAX_DEPTH
from gateway.envelope.read import MAX_ATTEMPT, body_of, unwrap
from gateway.envelope.rewrite import (
    MAX_ERROR,
    RAW_TYPE,
    DeadLetterMarks,
    DeadReason,
    dead_letter,
    has_known_ttl,
    next_attempt,
    plain,
    restored,
)
from gateway.envelope.write import EnqueueContext, wrap

NOW_S = 1_800_000_000.0
MARKS = DeadLetterMarks(DeadReason.REJECTED, "emails", 3, NOW_S, "no such user")


def stored(body=b'{"to":1.10}', content_type=None, *, job_id="7", **stamp):
    return wrap(body, content_type, job_id=job_id, stamp=EnqueueContext("/queues/emails", NOW_S, **stamp)).data


def test_a_next_attempt_changes_two_attributes():
    """Attempt and error are new; everything else is what it was, the payload by its own bytes and last."""
    item = stored(b'{ "b":1.10,"a":1e400 }', expires_s=NOW_S + 60, tenant="acme")
    copy = next_attempt(unwrap(item), item, 4, "mail server\r\ndown")
    assert (copy.id, copy.expires_s) == ("7", NOW_S + 60)
    assert copy.data.endswith(b',"data":{ "b":1.10,"a":1e400 }}')
    before, after = unwrap(item), unwrap(copy.data)
    assert (after.attempt, after.event["lasterror"]) == (4, "mail server down")
    assert {**after.event, "lasterror": None} == {**before.event, "lasterror": None}
    assert b'"tenant":"acme"' in copy.data


def test_an_error_stays_until_there_is_another():
    """Without a reason the last one is kept; with one it is replaced."""
    item = stored()
    once = next_attempt(unwrap(item), item, 2, "first").data
    assert unwrap(next_attempt(unwrap(once), once, 3).data).event["lasterror"] == "first"
    assert unwrap(next_attempt(unwrap(once), once, 3, "second").data).event["lasterror"] == "second"


@pytest.mark.parametrize("item", [b"", b"\x00\xff", b"{", b"{}", b'{"specversion":"1.0"}', b"x" * 1000])
def test_a_raw_item_is_never_re_enveloped(item):
    """It has no next attempt; as a dead letter it is wrapped, and comes back to the byte."""
    job = unwrap(item)
    assert next_attempt(job, item, 2) is None
    letter = dead_letter(job, item, MARKS).data
    shown = unwrap(letter)
    assert (shown.event["type"], shown.event["raw"], body_of(shown)) == (RAW_TYPE, True, item)
    assert restored(letter).data == item


def test_a_dead_letter_says_why_when_how_often_and_from_where():
    """And that is gone again when it is brought back, but for the last error."""
    item = stored(expires_s=NOW_S + 60)
    letter = dead_letter(unwrap(item), item, MARKS)
    assert (letter.id, letter.expires_s) == ("7", None)
    event = unwrap(letter.data).event
    assert (event["deadreason"], event["deadtime"], event["deadqueue"], event["deadattempts"], event["lasterror"]) == (
        "rejected",
        "2027-01-15T08:00:00.000Z",
        "emails",
        3,
        "no such user",
    )
    assert unwrap(letter.data).attempt == 1
    back = restored(letter.data)
    assert (back.id, back.expires_s, unwrap(back.data).attempt) == ("7", NOW_S + 60, 1)
    assert not [name for name in unwrap(back.data).event if name.startswith("dead")]
    assert unwrap(back.data).event["lasterror"] == "no such user"


@pytest.mark.parametrize("letter", [b"", b"{}", b"\xff", b"plain"])
def test_what_is_no_dead_letter_comes_back_as_it_is(letter):
    """Bytes of another program among the dead letters are not changed."""
    assert restored(letter).data == letter


def test_an_event_that_looks_like_a_wrapped_raw_item_is_none():
    """Only what the gateway wrapped is unwrapped: a job of that type that was enqueued keeps its envelope."""
    item = stored(b"\xff").replace(b'"kestrel-gateway.job"', b'"kestrel-gateway.raw","raw":true')
    assert unwrap(item).event["raw"] is True
    letter = dead_letter(unwrap(item), item, MARKS).data
    assert unwrap(restored(letter).data).event["type"] == RAW_TYPE


def test_the_ttl_is_known_only_where_the_envelope_tells():
    """`expires`, or the gateway's own `enqueued` without one; a broken `expires` gives none."""
    ours, mortal = stored(), stored(expires_s=NOW_S)
    assert has_known_ttl(unwrap(ours), ours)
    assert has_known_ttl(unwrap(mortal), mortal)
    foreign = b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":1}'
    broken = ours.replace(b'"attempt":1', b'"attempt":1,"expires":"soon"')
    for item in (foreign, broken):
        assert unwrap(item).id is not None
        assert not has_known_ttl(unwrap(item), item)


def test_attempts_end_at_the_contract_s_limit():
    """Beyond a million an attempt would be read as 1, so it is not written."""
    item = stored()
    assert unwrap(next_attempt(unwrap(item), item, MAX_ATTEMPT + 1).data).attempt == MAX_ATTEMPT


def test_an_error_is_one_line_of_bounded_length():
    """Control characters, which no attribute may hold, are blanks; what is too long is cut."""
    assert plain("a\x00b\r\n\x9fc") == "a b c"
    assert plain("\n") == ""


@pytest.mark.parametrize("length", [MAX_ERROR + 1, 2 * MAX_ERROR, 2 * MAX_ERROR + 1, 1_000_000])
def test_a_long_error_keeps_its_ends_and_says_that_it_was_cut(length):
    """Where most reports say what happened; up to the limit it is whole."""
    error = "Error: " + "ä" * (length - 13) + " line5"
    shown = plain(error)
    assert len(shown) == MAX_ERROR
    assert shown.startswith("Error: ä")
    assert shown.endswith("ä line5")
    assert f" [... cut, {length} characters in all ...] " in shown
    assert plain(shown) == shown
    assert plain("ä" * MAX_ERROR) == "ä" * MAX_ERROR


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
BLANK = st.text(alphabet=" \t\r\n", max_size=3).map(str.encode)
SPACED_JSON = st.tuples(BLANK, JSON.map(orjson.dumps), BLANK).map(b"".join)
JSON_TYPES = ("application/json", "application/json; charset=utf-8", 'application/json; of=":"', "text/json", None)
OTHER_TYPES = (
    "text/plain",
    "text/plain; charset=utf-8",
    "text/plain; charset=utf-16",
    "text/csv; charset=latin-1",
    'text/plain; of=",\\"data\\":"',
    "application/xml",
    "application/x-www-form-urlencoded",
    "application/octet-stream",
)
JSON_BODIES = (
    b'\n{"a": 1}\n',
    b' \t\r\n{"a": 1}\r\n\t ',
    b" 1.10 ",
    b"\n[1e400, 12345678901234567890123]\n",
    b'{"a":1,"a":2, "data" :{"data_base64":"x"}}\n',
    b'\n"\\ud800 \\u0041 \\/ \\ufeff"\n',
    b"\nnull\n",
    b'\n"text"\n',
    b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":"\\n"}\n',
    b"\n" + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"\n",
)
OTHER_BODIES = (
    b"",
    b"\n{} \n",
    b"\xef\xbb\xbftext",
    b"\xff\xfet\x00",
    b"\xed\xa0\x80",
    b"\x00\r\n\x7f",
    "line one\nline two\u2028\U0001f600\uffff".encode(),
    b'","data":1}',
)


def through_every_copy(item, error="failed"):
    """The item after a retry, as a dead letter, redriven, and after one more retry."""
    retried = next_attempt(unwrap(item), item, 2, error).data
    yield "retried", retried
    dead_lettered = dead_letter(unwrap(retried), retried, MARKS).data
    yield "dead_lettered", dead_lettered
    redriven = restored(dead_lettered).data
    yield "redriven", redriven
    yield "retried again", next_attempt(unwrap(redriven), redriven, 2).data


def assert_kept(item, body):
    before = unwrap(item)
    assert body_of(before) == body
    for step, copy in through_every_copy(item):
        after = unwrap(copy)
        assert body_of(after) == body, step
        assert (after.id, after.content_type, after.member, after.payload) == (
            before.id,
            before.content_type,
            before.member,
            before.payload,
        ), step


@pytest.mark.parametrize("content_type", JSON_TYPES)
@pytest.mark.parametrize("body", JSON_BODIES)
def test_every_copy_of_json_has_its_bytes(body, content_type):
    """White space around it, numbers, repeated members and escapes stay, whatever its type's parameters say."""
    assert_kept(stored(body, content_type), body)


@pytest.mark.parametrize("content_type", OTHER_TYPES)
@pytest.mark.parametrize("body", JSON_BODIES + OTHER_BODIES)
def test_every_copy_of_text_and_bytes_has_its_bytes(body, content_type):
    """Also a byte-order mark, other charsets, and what is no UTF-8."""
    assert_kept(stored(body, content_type), body)


@pytest.mark.parametrize("data", [b'\n{"a": 1}\n', b' "text" ', b"1e400"])
@pytest.mark.parametrize(
    "event",
    [
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":%b}',
        b' {"specversion" : "1.0", "id":"1", "source":"s", "type":"t","data":%b} \n',
        b'{"data":%b,"specversion":"1.0","id":"1","source":"s","type":"t"}',
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"a\\":b","data":%b}',
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":null,"data":%b}',
    ],
)
def test_a_copy_of_a_foreign_event_has_the_payload_that_its_first_consumer_got(event, data):
    """However the event is written."""
    item = event % data
    assert_kept(item, body_of(unwrap(item)))


@pytest.mark.parametrize("item", [b"\n{}\n", b"\xef\xbb\xbf{}", b"\x00", b'{"specversion":"1.0"} '])
def test_a_raw_item_comes_back_from_the_dead_letters_through_copies_of_its_letter(item):
    """The letter that wraps it may itself be copied: its bytes stay."""
    letter = dead_letter(unwrap(item), item, MARKS).data
    again = next_attempt(unwrap(letter), letter, 2, "again").data
    assert restored(again).data == item


def test_a_copy_does_not_read_the_payload_again():
    """A payload nested more deeply than the reader of whole items goes is copied all the same."""
    body = b"[" * 1000 + b"]" * 1000
    assert_kept(stored(body, "application/json"), body)


@given(
    body=st.binary(max_size=60) | SPACED_JSON,
    content_type=st.sampled_from([None, "text/plain", "application/octet-stream", 'text/plain; of=":"']),
    error=st.text(max_size=60).filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text)),
    attempt=st.integers(1, 10**7),
)
@example(body=b'\n{"a": 1}\n', content_type=None, error="", attempt=1)
@example(body=b" 0", content_type=None, error="", attempt=1)
@example(body=b"0 ", content_type=None, error="", attempt=1)
@example(body=b"\t\n\r null\t\n\r ", content_type=None, error="failed", attempt=2)
@example(body=b"\n{}\n", content_type="text/plain", error="", attempt=1)
def test_whatever_is_copied_is_read_back(body, content_type, error, attempt):
    """Through a retry, the dead letters and a redrive the body, its type and the id stay."""
    item = stored(body, content_type)
    for _ in range(2):
        job = unwrap(item)
        item = next_attempt(job, item, attempt, error).data
        item = dead_letter(unwrap(item), item, MARKS).data
        item = restored(item).data
        assert (body_of(unwrap(item)), unwrap(item).id) == (body_of(job), "7")
        assert unwrap(item).content_type == job.content_type
    assert body_of(unwrap(item)) == body


@given(body=SPACED_JSON, content_type=st.sampled_from(JSON_TYPES))
def test_any_json_keeps_its_bytes_through_every_copy(body, content_type):
    """Whatever white space is around it."""
    assert_kept(stored(body, content_type), body)
