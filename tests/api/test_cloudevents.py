"""CloudEvents over HTTP in every content mode, many jobs at once, and the three forms of delivery."""

import base64
import json
import string
import time
import urllib.request
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lab.examples import examples

EVENT = {"specversion": "1.0", "id": "e-1", "source": "/web", "type": "org.example.signup"}
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
LINES = "application/x-ndjson"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def put(http: httpx.Client, queue: str, content, content_type=None, headers=None, **query) -> httpx.Response:
    headers = dict(headers or {}) | ({"content-type": content_type} if content_type else {})
    return http.post(f"/queues/{queue}/jobs", content=content, headers=headers, params=query)


def put_event(http: httpx.Client, queue: str, event, **query) -> httpx.Response:
    return put(http, queue, json.dumps(event), STRUCTURED, **query)


def take(http: httpx.Client, queue: str, accept: str = "*/*", **query) -> httpx.Response:
    answer = http.get(f"/queues/{queue}/next", headers={"accept": accept}, params={"timeout": 5} | query)
    assert answer.status_code == 200, answer.text
    assert http.post(answer.headers["location"] + "/ack").status_code == 204
    return answer


def test_a_structured_event_is_stored_as_it_is(http, queue):
    """Attributes and the data's own bytes come back; the gateway's own extensions are its own."""
    text = (
        b'{"specversion":"1.0","data": {"n": 12345678901234567890123, "n": 1.10} ,"id":"x","source":"/s","type":"t",'
        b'"ext":7,"flag":true,"tenant":"other","attempt":99,"lasterror":"no","enqueued":"never","none":null}'
    )
    assert put(http, queue, text, STRUCTURED).json() == {"id": "x", "queue": queue, "content_type": "application/json"}
    answer = take(http, queue, STRUCTURED)
    assert answer.headers["content-type"] == STRUCTURED
    assert b'"data":{"n": 12345678901234567890123, "n": 1.10}}' in answer.content
    event = answer.json()
    assert (event["ext"], event["flag"], event["attempt"]) == (7, True, 1)
    assert event["enqueued"] == event["time"]
    assert not {"tenant", "lasterror", "none"} & event.keys()


def test_missing_id_and_time_are_filled_in(http, queue):
    """An event without them gets them, and the receipt has the id."""
    stored = put_event(http, queue, {"specversion": "1.0", "source": "/s", "type": "t"}).json()
    event = take(http, queue, STRUCTURED).json()
    assert event["id"] == stored["id"]
    assert event["time"].endswith("Z")


INVALID: list[tuple[dict[str, object], str]] = [
    ({"specversion": "0.3"}, "specversion"),
    ({"source": ""}, "source"),
    ({"source": None}, "source"),
    ({"type": 1}, "type"),
    ({"id": ""}, "id"),
    ({"time": "yesterday"}, "time"),
    ({"time": "2026-02-30T00:00:00Z"}, "time"),
    ({"Bad": "x"}, "Bad"),
    ({"a_b": "x"}, "a_b"),
    ({"": ""}, "''"),
    ({"ext": 1.5}, "ext"),
    ({"ext": {}}, "ext"),
    ({"ext": 2**31}, "ext"),
    ({"ext": "a\r\nb"}, "ext"),
    ({"expires": "2020-01-01T00:00:00Z"}, "expires"),
    ({"datacontenttype": "text"}, "datacontenttype"),
    ({"datacontenttype": "text/plain", "data": {}}, "data"),
    ({"data_base64": "%"}, "data_base64"),
    ({"data_base64": "AAAA", "datacontenttype": "application/json"}, "data_base64"),
    ({"data": 1, "data_base64": "AA=="}, "data"),
]


def test_an_invalid_attribute_is_named(http, queue):
    """What CloudEvents does not allow is a 400 that names the attribute; nothing is stored."""
    for change, named in INVALID:
        answer = put_event(http, queue, EVENT | change)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-event"), change
        assert named in answer.json()["detail"], change
    assert http.get(f"/queues/{queue}").status_code == 404


@pytest.mark.parametrize(("text", "code"), [(b"", "invalid-body"), (b"{", "invalid-body"), (b"[]", "invalid-event")])
def test_what_is_no_event_is_told(http, queue, text, code):
    """A structured body that is no JSON object is a 400."""
    assert put(http, queue, text, STRUCTURED).json()["code"] == code


def test_in_binary_mode_headers_are_the_attributes(http, queue):
    """`ce-` headers are the attributes, percent-decoded and unquoted; the body is the data, by its own bytes."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "b-1",
        "ce-source": "/caf%C3%A9",
        "ce-type": "t",
        "ce-subject": '"quoted \\" text"',
        "ce-attempt": "7",
    }
    assert put(http, queue, b"[1.10]", "application/json", headers).status_code == 201
    job = take(http, queue)
    assert b'"data":[1.10]' in job.content
    job = job.json()
    assert (job["id"], job["attempt"], job["attributes"]["source"]) == ("b-1", 1, "/café")
    assert job["attributes"]["subject"] == 'quoted " text'


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"ce-id": "1"}, "specversion"),
        ({"ce-specversion": "1.0", "ce-type": "t"}, "source"),
        ({"ce-specversion": "1.0", "ce-type": "t", "ce-source": "%FF"}, "source"),
        ({"ce-specversion": "1.0", "ce-type": "%0D%0A", "ce-source": "/"}, "type"),
        ({"ce-specversion": "1.0", "ce-type": "t", "ce-source": "/", "ce-a-b": "x"}, "a-b"),
        ({"ce-specversion": "1.0", "ce-datacontenttype": "text/html"}, "datacontenttype"),
        ({"ce-specversion": "1.0", "ce-datacontenttype": "text/plain; charset=utf-16"}, "datacontenttype"),
        ({"ce-specversion": "1.0", "ce-datacontenttype": "text"}, "datacontenttype"),
    ],
)
def test_invalid_binary_mode_is_named(http, queue, headers, named):
    """A wrong `ce-` header is a 400 that names it."""
    answer = put(http, queue, b"x", "text/plain; charset=utf-8", headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-event")
    assert named in answer.json()["detail"]


def test_a_batch_is_stored_in_order(http, queue):
    """An array of events is as many jobs."""
    events = [EVENT | {"id": str(number), "data": number} for number in range(20)]
    answer = put(http, queue, json.dumps(events), BATCH)
    assert (answer.status_code, [each["id"] for each in answer.json()["results"]]) == (
        201,
        [each["id"] for each in events],
    )
    assert [take(http, queue).json()["data"] for _ in events] == list(range(20))


def test_lines_are_jobs(http, queue):
    """Each line of NDJSON is a job of JSON by its own bytes; blank lines are none."""
    answer = put(http, queue, b'{"a": 1.10}\r\n\n12345678901234567890123\n', LINES)
    assert [each["status"] for each in answer.json()["results"]] == [201, 201]
    assert b'"data":{"a": 1.10}' in take(http, queue).content
    assert b'"data":12345678901234567890123' in take(http, queue).content


def test_of_many_some_may_fail(http, queue):
    """207 has one result a job in their order; the good ones are stored."""
    answer = put(http, queue, b"1\nnot json\n3\n", LINES)
    results = answer.json()["results"]
    assert (answer.status_code, [each["status"] for each in results]) == (207, [201, 400, 201])
    assert results[1]["code"] == "invalid-body"
    assert [take(http, queue).json()["id"] for _ in range(2)] == [results[0]["id"], results[2]["id"]]


def test_many_that_all_fail_alike_are_that_failure(http, queue):
    """Nothing stored is never a 2xx."""
    assert put(http, queue, b"x\ny", LINES).json()["code"] == "invalid-body"
    assert put(http, queue, json.dumps([{}, {}]), BATCH).json()["code"] == "invalid-event"
    assert http.get(f"/queues/{queue}").status_code == 404


@pytest.mark.parametrize("body", [b"{}", b"[1,", b"[1]x", b"", b"\xff", b"[" * 100_000, b"[{}] []"])
def test_what_is_no_batch_is_told(http, queue, body):
    """A batch that is no array is a 400 and stores nothing."""
    assert put(http, queue, body, BATCH).status_code == 400


def test_a_request_has_a_limit_of_jobs(http, queue):
    """Too many jobs are an error, and so is one that is too large; the others of an allowed request are stored."""
    assert put(http, queue, b"1\n" * 1001, LINES).status_code == 413
    big = json.dumps("x" * (1 << 20))
    results = put(http, queue, f"1\n{big}\n2", LINES).json()["results"]
    assert [each["status"] for each in results] == [201, 413, 201]
    assert put(http, queue, b" " * ((8 << 20) + 1), LINES).status_code == 413


def test_an_empty_batch_stores_nothing(http, queue):
    """No event is no failure."""
    answer = put(http, queue, b"[]", BATCH)
    assert (answer.status_code, answer.json()) == (201, {"queue": queue, "results": []})


OBJECT = "application/json"


@pytest.mark.parametrize(
    ("accept", "content_type", "shown"),
    [
        ("*/*", "text/plain", OBJECT),
        ("application/json", "text/plain", OBJECT),
        ("", "text/plain", OBJECT),
        ("text/plain", "text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("text/*", "text/plain", "text/plain"),
        ("text/plain, application/json", "text/plain", OBJECT),
        ("text/plain, */*;q=0.1", "text/plain", "text/plain"),
        ("text/plain;q=0.1, */*", "text/plain", OBJECT),
        ("application/json;q=0, text/plain", "text/plain", "text/plain"),
        ("image/png", "text/plain", OBJECT),
        (STRUCTURED, "text/plain", STRUCTURED),
        (f"{STRUCTURED}, */*", "text/plain", OBJECT),
        (f"{STRUCTURED}, */*;q=0.5", "text/plain", STRUCTURED),
        ("application/json;q=0, */*", "text/plain", STRUCTURED),
        ("application/*", "application/octet-stream", OBJECT),
        ("application/vnd.api+json", "application/vnd.api+json", OBJECT),
        (";;q=,,q=nan, text/plain;q=x", "text/plain", OBJECT),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html", "text/html"),
    ],
)
def test_accept_chooses_the_form(http, queue, accept, content_type, shown):
    """The form is what Accept prefers; the object where nothing fits, and on a tie."""
    body = b"{}" if "json" in content_type else b"text"
    put(http, queue, body, content_type)
    peeked = http.get(f"/queues/{queue}/peek", headers={"accept": accept})
    taken = take(http, queue, accept)
    assert (peeked.headers["content-type"], taken.headers["content-type"]) == (shown, shown)
    if shown == content_type:
        assert (taken.content, peeked.content) == (body, body)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "image/png", "text/html"])
def test_raw_bytes_with_metadata_in_headers(http, queue, content_type):
    """`format=raw` gives the job's own bytes and type, its attributes in headers, and browsers run none of it."""
    body = b'{"n":1.10}' if "json" in content_type else b"<script>alert(1)</script>"
    stored = put(http, queue, body, content_type, {"traceparent": TRACE, "tracestate": "a=1"}).json()
    answer = take(http, queue, "application/json", format="raw")
    assert (answer.content, answer.headers["content-type"]) == (body, content_type)
    assert (answer.headers["ce-id"], answer.headers["ce-attempt"]) == (stored["id"], "1")
    assert answer.headers["ce-enqueued"] == answer.headers["ce-time"]
    assert (answer.headers["traceparent"], answer.headers["tracestate"]) == (TRACE, "a=1")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["lease-id"]


def test_any_attribute_fits_into_a_header(http, queue):
    """Blanks, quotes, percent signs and other alphabets are percent-encoded, and read back."""
    subject = 'ä "50%" \u202e😀'
    put_event(http, queue, EVENT | {"subject": subject, "flag": False, "n": -5, "data": "x"})
    answer = take(http, queue, format="raw")
    assert unquote(answer.headers["ce-subject"]) == subject
    assert answer.headers["ce-subject"].isascii()
    assert " " not in answer.headers["ce-subject"]
    assert (answer.headers["ce-flag"], answer.headers["ce-n"]) == ("false", "-5")


@pytest.mark.parametrize(
    ("extensions", "left_out"),
    [
        ({"subject": "é" * 10_000}, 1),
        ({f"x{number}": "a" for number in range(85)}, 85 - 43),
        ({f"x{number}": "a" * 4000 for number in range(4)}, 4),
        ({f"x{number}": "a" * 1000 for number in range(4)}, 1),
        ({"x" + "y" * 63: "a" * 4000, "z": 1}, 1),
    ],
)
def test_what_headers_cannot_hold_comes_as_the_object(gateway, http, queue, extensions, left_out):
    """Attributes that are too long or too many for headers: by Accept the object; by `format=raw` the bytes without
    them, and their number. Python's own client can read it, which takes a hundred headers."""
    event = extensions | EVENT | {"datacontenttype": "text/plain", "data": "body", "traceparent": TRACE}
    for _ in range(2):
        assert put_event(http, queue, event, headers={"tracestate": "a=1"}).status_code == 201
    job = take(http, queue, "text/plain").json()
    assert extensions.items() <= job["attributes"].items()
    with urllib.request.urlopen(f"{gateway.url}/queues/{queue}/next?timeout=5&format=raw") as answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        assert answer.read() == b"body"
    assert headers["lease-id"]
    names = {name[3:] for name in headers if name.startswith("ce-")}
    assert {"id", "source", "type", "specversion", "attempt", "time", "enqueued", "traceparent"} <= names
    assert int(headers["attributes-left-out"]) == len(extensions.keys() - names) == left_out
    assert len(headers) < 70
    assert sum(len(name) + len(value) + 4 for name, value in headers.items()) < 6000


def test_attributes_that_fit_are_all_there(http, queue):
    """No header says that some are left out."""
    put_event(http, queue, EVENT | {f"x{number}": "a" for number in range(42)} | {"data": 1})
    answer = take(http, queue, format="raw")
    assert len([name for name in answer.headers if name.startswith("ce-x")]) == 42
    assert "attributes-left-out" not in answer.headers


@pytest.mark.parametrize("value", ["Raw", "json", "", "raw%20"])
def test_an_unknown_format_is_told(http, queue, value):
    """Anything but `raw` is a 400, before a job is taken."""
    answer = http.get(f"/queues/{queue}/next?timeout=0&format={value}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")


def test_trace_context_travels_with_the_job(http, queue):
    """Valid headers come back as headers and attributes; an event's own trace is kept; invalid ones are ignored."""
    put(http, queue, b"1", None, {"traceparent": TRACE, "tracestate": "vendor=1,b@c=2"})
    other = TRACE.replace("4bf9", "aaaa")
    put_event(http, queue, EVENT | {"traceparent": other}, headers={"traceparent": TRACE})
    for bad in ("x", TRACE.upper(), TRACE.replace("00-", "ff-", 1), TRACE + "-x", f"00-{'0' * 32}-{'1' * 16}-00"):
        put(http, queue, b"1", None, {"traceparent": bad, "tracestate": "a=1"})
    first, second, *others = [take(http, queue) for _ in range(7)]
    assert (first.headers["traceparent"], first.headers["tracestate"]) == (TRACE, "vendor=1,b@c=2")
    assert first.json()["attributes"]["traceparent"] == TRACE
    assert (second.headers["traceparent"], second.json()["attributes"]["traceparent"]) == (other, other)
    for each in others:
        assert not {"traceparent", "tracestate"} & each.headers.keys()
        assert "traceparent" not in each.json()["attributes"]


def test_ttl_becomes_expires(http, queue):
    """`ttl` is shown as `expires`, in fractions of a second, and overrides the event's own."""
    before = time.time()
    put_event(http, queue, EVENT | {"expires": "2099-01-01T00:00:00+01:00"})
    put_event(http, queue, EVENT | {"expires": "2099-01-01T00:00:00Z"}, ttl="60.5")
    own, ttl = [take(http, queue).json()["attributes"]["expires"] for _ in range(2)]
    assert own == "2098-12-31T23:00:00.000Z"
    left = time.mktime(time.strptime(ttl[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone + float(ttl[19:23]) - before
    assert 60.4 < left < 65


def test_an_expired_job_is_dropped_and_the_wait_goes_on(http, queue, new_queue):
    """A ttl of half a second is kept to the fraction: the job is not delivered, the next one is, in the same poll."""
    put(http, queue, b'"gone"', ttl="0.2")
    put(http, queue, b'"too"', ttl="0.2")
    assert http.get(f"/queues/{new_queue()}/next?timeout=0.25").status_code == 204
    put(http, queue, b'"stays"', ttl="100")
    assert take(http, queue).json()["data"] == "stays"
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204
    assert http.get(f"/queues/{queue}").json()["open_reads"] == 0


@pytest.mark.parametrize("value", ["0", "-1", "1e3", "inf", "", "315360001"])
def test_a_bad_ttl_is_told(http, queue, value):
    """A ttl that is none is a 400 and stores nothing."""
    problem = http.post(f"/queues/{queue}/jobs?ttl={value}").json()
    assert problem["code"] == "invalid-parameter"
    if value == "315360001":
        assert "between 0.001 and 315360000 seconds" in problem["detail"]


@pytest.mark.parametrize("name", ["Request-Id", "X-Request-Id"])
def test_a_sane_request_id_is_kept(http, name):
    """The client's id is used in answer and problem; one that is unfit for a log is replaced."""
    answer = http.get("/nothing", headers={name: "web-1/17"})
    assert (answer.headers["request-id"], answer.json()["request_id"]) == ("web-1/17", "web-1/17")
    for bad in ("a b", "x" * 129, "", '"', "é".encode().decode("latin-1")):
        answer = http.get("/nothing", headers={name: bad.encode("latin-1")})
        assert len(answer.headers["request-id"]) == 16


# Source: CloudEvents 1.0.2, type String, and Unicode 23.7 for the noncharacters that it excludes.
NONCHARACTERS = [*range(0xFDD0, 0xFDF0), *(plane << 16 | low for plane in range(17) for low in (0xFFFE, 0xFFFF))]
ATTRIBUTE = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="".join(map(chr, NONCHARACTERS))), max_size=30
)
EXTENSIONS = st.dictionaries(
    st.text(string.ascii_lowercase + string.digits, max_size=12).map(lambda name: "x" + name),
    ATTRIBUTE | st.booleans() | st.integers(-(2**31), 2**31 - 1),
    max_size=4,
)
EVENTS = st.fixed_dictionaries(
    {
        "specversion": st.just("1.0"),
        "id": ATTRIBUTE.filter(bool),
        "source": st.just("/s"),
        "type": ATTRIBUTE.filter(bool),
    },
    optional={"subject": ATTRIBUTE.filter(bool), "time": st.just("2026-01-31T12:00:00.5+01:00")},
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ATTRIBUTE,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(ATTRIBUTE, each, max_size=3),
    max_leaves=6,
)
PAYLOADS = st.one_of(
    st.just({}),
    st.builds(lambda value: {"data": value}, JSON),
    st.builds(lambda value: {"data": value, "datacontenttype": "application/x+json"}, JSON),
    st.builds(lambda text: {"data": text, "datacontenttype": "text/plain"}, ATTRIBUTE),
    st.builds(
        lambda raw, kind: {"data_base64": base64.b64encode(raw).decode()} | ({"datacontenttype": kind} if kind else {}),
        st.binary(max_size=40),
        st.sampled_from([None, "image/png", "text/plain"]),
    ),
    st.just({"data_base64": "WzEuMTBd", "datacontenttype": "application/json"}),
)
BRIEF = settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])


def canonical(value) -> str:
    """An attribute's value as text, which is all that binary mode keeps of it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@BRIEF
@given(event=EVENTS, extensions=EXTENSIONS, payload=PAYLOADS)
def test_every_structured_event_round_trips(http, new_queue, event, extensions, payload):
    """Structured in, structured out: the same event, and what the gateway adds."""
    queue, whole = "structured", event | extensions | payload
    assert put_event(http, queue, whole).status_code == 201
    found = take(http, queue, STRUCTURED).json()
    added = {"enqueued", "attempt"} | ({"time"} - whole.keys())
    assert {name: value for name, value in found.items() if name not in added} == whole


@BRIEF
@given(
    event=EVENTS, extensions=EXTENSIONS, body=st.binary(max_size=40), kind=st.sampled_from(["image/png", "text/plain"])
)
def test_every_binary_event_round_trips(http, event, extensions, body, kind):
    """Binary in, binary out: what the answer's headers say is what the request's said, as is the body."""
    given_ = {name: canonical(value) for name, value in (event | extensions).items()}
    headers = {f"ce-{name}": percent(value) for name, value in given_.items()}
    assert put(http, "binary", body, kind, headers).status_code == 201
    answer = take(http, "binary", format="raw")
    found = {name[3:]: unquote(value) for name, value in answer.headers.items() if name.startswith("ce-")}
    added = {"enqueued", "attempt"} | ({"time"} - given_.keys())
    assert {name: value for name, value in found.items() if name not in added} == given_
    assert (answer.content, answer.headers["content-type"]) == (body, kind)


@BRIEF
@given(event=EVENTS, extensions=EXTENSIONS, payload=PAYLOADS)
def test_structured_and_binary_tell_the_same(http, event, extensions, payload):
    """An event put in a batch and delivered in binary mode, then put again unchanged, is the same event."""
    assert put(http, "mixed", json.dumps([event | extensions | payload]), BATCH).status_code == 201
    answer = take(http, "mixed", format="raw")
    headers = {name: value for name, value in answer.headers.items() if name.startswith("ce-")}
    kind = answer.headers["content-type"] if answer.content or "datacontenttype" in payload else None
    assert put(http, "mixed", answer.content, kind, headers).status_code == 201
    again = take(http, "mixed", format="raw")
    assert again.content == answer.content
    for name in headers.keys() - {"ce-enqueued"}:
        assert again.headers[name] == headers[name]


def percent(text: str) -> str:
    """As the HTTP binding encodes an attribute's value."""
    plain = set(map(chr, range(0x21, 0x7F))) - {'"', "%"}
    return "".join(char if char in plain else "".join(f"%{byte:02X}" for byte in char.encode()) for char in text)
