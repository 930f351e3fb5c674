"""The habits of real senders: more headers than an event's, other names of NDJSON, empty answers, web hooks."""

import json

import pytest

from tests.api.keyring import Keyring
from tests.api.test_cloudevents import BATCH, EVENT, LINES, STRUCTURED, put, take
from tests.lab.gateway import running

BOM = b"\xef\xbb\xbf"
BINARY = {"ce-specversion": "1.0", "ce-id": "b-1", "ce-source": "/s", "ce-type": "t"}


def count(http, queue):
    """How many jobs wait there."""
    answer = http.get(f"/queues/{queue}")
    return answer.json()["items"] if answer.status_code == 200 else 0


@pytest.mark.parametrize(
    "headers",
    [
        BINARY | {"ce-id": "other"},
        {"ce-id": "other"},
        {"ce-specversion": "0.3", "ce-source": "%FF", "ce-datacontenttype": "text/html", "ce-a-b": "x"},
        [("ce-id", "1"), ("ce-id", "2")],
    ],
)
def test_in_structured_and_batch_mode_headers_beside_the_event_are_ignored(http, queue, headers):
    """The event in the body counts, whatever they say."""
    assert put(http, queue, json.dumps(EVENT), STRUCTURED, headers).json()["id"] == "e-1"
    answer = put(http, queue, json.dumps([EVENT | {"id": "e-2"}]), BATCH, headers)
    assert (answer.status_code, answer.json()["results"][0]["id"]) == (201, "e-2")
    assert [take(http, queue).json()["id"] for _ in range(2)] == ["e-1", "e-2"]


@pytest.mark.parametrize(
    ("stated", "content_type", "stored"),
    [
        ("application/json", "application/json", "application/json"),
        ("application/json", "application/json; charset=UTF-8", "application/json; charset=UTF-8"),
        ("Application/JSON; Charset=utf-8", 'application/json;charset="UTF-8"', 'application/json;charset="UTF-8"'),
        ("text/plain", None, "text/plain"),
    ],
)
def test_a_data_content_type_that_is_the_content_type_is_ignored(http, queue, stated, content_type, stored):
    """Without a Content-Type it is what it says."""
    answer = put(http, queue, b"1", content_type, BINARY | {"ce-datacontenttype": stated})
    assert (answer.status_code, answer.json()["content_type"]) == (201, stored)
    job = take(http, queue).json()
    assert (job["content_type"], "datacontenttype" in job["attributes"]) == (stored, False)


def test_a_data_content_type_that_contradicts_is_refused(http, queue):
    """The answer names both types."""
    answer = put(http, queue, b"{}", "text/plain", BINARY | {"ce-datacontenttype": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-event")
    assert "application/json" in answer.json()["detail"]
    assert "text/plain" in answer.json()["detail"]


@pytest.mark.parametrize(
    "name",
    [
        "application/x-ndjson",
        "application/ndjson",
        "application/x-nd-json",
        "application/jsonl",
        "application/x-jsonl",
        "application/jsonlines",
        "application/x-jsonlines",
        "application/json-lines",
        "application/x-ldjson",
        "application/x-json-stream",
        "application/stream+json",
        "text/x-ndjson",
        "text/jsonl",
        "application/vnd.shop.orders+ndjson",
        "application/vnd.shop.orders+jsonl",
        "application/vnd.shop.orders+x-ndjson; charset=utf-8",
        "Application/JSONL; charset=utf-8",
    ],
)
def test_json_a_line_has_many_names(http, queue, name):
    """All of them are one job a line."""
    answer = put(http, queue, b'{"a": 1}\n{"a": 2}\n', name)
    assert [each["status"] for each in answer.json()["results"]] == [201, 201]
    assert {each["content_type"] for each in answer.json()["results"]} == {"application/json"}
    assert [take(http, queue).json()["data"] for _ in range(2)] == [{"a": 1}, {"a": 2}]


def test_lines_may_be_the_data_of_one_event(http, queue):
    """In binary mode the body is the event's data, whatever its type."""
    answer = put(http, queue, b"1\n2\n", LINES, BINARY)
    assert answer.json() == {"id": "b-1", "queue": queue, "content_type": LINES}
    assert take(http, queue, format="raw").content == b"1\n2\n"


@pytest.mark.parametrize(
    ("content_type", "named"),
    [
        ("application/json-seq", LINES),
        ("application/geo+json-seq", LINES),
        ("application/x-json-seq", LINES),
        ("application/concatenated-json", LINES),
        ("application/x-concatenated-json; charset=utf-8", LINES),
        ("application/cloudevents", STRUCTURED),
        ("application/cloudevents+avro", STRUCTURED),
        ("application/cloudevents-batch+protobuf; charset=utf-8", BATCH),
    ],
)
def test_a_form_that_is_not_read_is_told(http, queue, content_type, named):
    """415 names the type that is; nothing is stored. As the data of a binary event it is data."""
    answer = put(http, queue, b"\x1e1\n", content_type)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")
    assert named in answer.json()["detail"]
    assert count(http, queue) == 0
    assert put(http, queue, b"\x1e1\n", content_type, BINARY).status_code == 201


def test_a_byte_order_mark_is_dropped_where_text_is_parsed(http, queue):
    """Of JSON, of lines, of an event and of a batch; one, and at the beginning."""
    assert put(http, queue, BOM + b'{"a": 1}', "application/json").status_code == 201
    assert put(http, queue, BOM + b"[2]").json()["content_type"] == "application/json"
    assert put(http, queue, BOM + b"3\r\n4", LINES).status_code == 201
    assert put(http, queue, BOM + json.dumps(EVENT | {"data": 5}).encode(), STRUCTURED).status_code == 201
    assert put(http, queue, BOM + json.dumps([EVENT | {"data": 6}]).encode(), BATCH).status_code == 201
    assert put(http, queue, BOM + b"7", "application/json", BINARY).status_code == 201
    assert take(http, queue, format="raw").content == b'{"a": 1}'
    assert [take(http, queue).json()["data"] for _ in range(6)] == [[2], 3, 4, 5, 6, 7]
    assert put(http, queue, BOM + BOM + b"1", "application/json").status_code == 400


@pytest.mark.parametrize(
    ("headers", "query", "content_type"),
    [
        ({"prefer": "return=minimal"}, {}, "application/json"),
        ({"prefer": 'respond-async, x="a, return=representation", RETURN = "minimal"; y'}, {}, None),
        ({}, {"receipt": "none"}, "text/plain"),
        ({"prefer": "reply"} | BINARY, {}, "application/json"),
        ({"prefer": "reply"}, {}, STRUCTURED),
        ({"prefer": "reply"}, {}, BATCH),
    ],
)
def test_an_empty_answer_where_it_is_asked_for(http, queue, headers, query, content_type):
    """204 without a body or a type, once the job is stored."""
    body = {STRUCTURED: json.dumps(EVENT), BATCH: json.dumps([EVENT])}.get(content_type, "1")
    answer = put(http, queue, body, content_type, headers, **query)
    assert (answer.status_code, answer.content, answer.headers.get("content-type")) == (204, b"", None)
    applied = "return=minimal" if "return" in headers.get("prefer", "") else None
    assert answer.headers.get("preference-applied") == applied
    assert count(http, queue) == 1


@pytest.mark.parametrize(
    "headers",
    [{}, {"prefer": "return=representation, return=minimal"}, {"prefer": 'x="return=minimal'}, {"prefer": "reply"}],
)
def test_else_the_answer_is_the_receipt(http, queue, headers):
    """Of a preference that comes twice the first counts; `reply` is for events."""
    assert put(http, queue, "1", "application/json", headers).status_code == 201
    assert put(http, queue, "1", "application/json", headers, receipt="full").json()["queue"] == queue


QUIET = {"prefer": "return=minimal"}


def test_a_batch_that_failed_in_part_is_no_2xx_where_nobody_reads_the_answer(http, queue):
    """A program sees by the code that some are stored, and by the status that the request is not to be sent again."""
    batch = json.dumps([EVENT, {"specversion": "1.0"}, EVENT])
    for headers in (QUIET, {"prefer": "reply"}):
        answer = put(http, queue, batch, BATCH, headers)
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (400, "partly-stored", False)
        assert answer.json()["detail"] == (
            "2 of 3 jobs were stored. The first failure: invalid-event: the attribute `source` is missing"
        )
        assert "retry-after" not in answer.headers
    assert put(http, queue, batch, BATCH, receipt="none").status_code == 400
    assert put(http, queue, batch, BATCH).status_code == 207
    mixed = put(http, queue, b"x\n" + b'"%b"' % (b"y" * (1 << 20)), LINES, QUIET)
    assert (mixed.status_code, mixed.json()["code"]) == (400, "invalid-body")
    large = put(http, queue, b'1\n"%b"' % (b"y" * (1 << 20)), LINES, QUIET)
    assert (large.status_code, large.json()["code"]) == (400, "partly-stored")
    assert large.json()["detail"].startswith("1 of 2 jobs was stored. The first failure: job-too-large: ")


@pytest.fixture(scope="module")
def lenient(tmp_path_factory):
    """A client of a gateway that grants every sender, with a queue of two jobs at most."""
    folder = tmp_path_factory.mktemp("lenient")
    (folder / "broker.toml").write_text("[queues.small]\nmax_items = 2\n")
    flags = ("--broker-config", str(folder / "broker.toml"), "--webhook-origins", "*")
    with running(folder / "data", *flags) as gateway, gateway.client() as client:
        yield client


def test_a_batch_that_may_be_stored_in_full_later_is_to_be_sent_again(lenient):
    """503 partly-stored with Retry-After; the same Idempotency-Key then stores the same ids."""
    headers = QUIET | {"idempotency-key": "k-1"}
    answer = put(lenient, "small", b"1\n2\n3\n", LINES, headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "partly-stored")
    assert (answer.json()["retryable"], answer.headers["retry-after"]) == (True, "1")
    first = {job["data"]: job["id"] for job in (take(lenient, "small").json() for _ in range(2))}
    assert put(lenient, "small", b"1\n2\n3\n", LINES, headers).status_code == 503
    again = {job["data"]: job["id"] for job in (take(lenient, "small").json() for _ in range(2))}
    assert again == first == {1: first[1], 2: first[2]}


def test_an_empty_answer_may_be_repeated(http, queue):
    """With an Idempotency-Key the second answer is the first one, and says so."""
    headers = QUIET | {"idempotency-key": "k-2"}
    for replayed in (None, "true"):
        answer = put(http, queue, "1", None, headers)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers.get("idempotency-replayed") == replayed
    assert put(http, queue, "1", None, {"idempotency-key": "k-2"}).json()["queue"] == queue
    assert count(http, queue) == 1


@pytest.mark.parametrize(
    ("body", "content_type", "stored"),
    [
        (b'{"a":1}', "application/x-www-form-urlencoded", "application/x-www-form-urlencoded"),
        (b'{"a":1}', None, "application/json"),
        (b"hello", None, "application/octet-stream"),
        (b"hello", "text/plain", "text/plain"),
        (json.dumps(EVENT | {"data": 1}).encode(), STRUCTURED, "application/json"),
        (json.dumps(EVENT).encode(), STRUCTURED, "application/octet-stream"),
        (json.dumps(EVENT | {"data_base64": "AA=="}).encode(), STRUCTURED, "application/octet-stream"),
        (json.dumps(EVENT | {"data": "x", "datacontenttype": "text/csv"}).encode(), STRUCTURED, "text/csv"),
    ],
)
def test_the_receipt_says_what_the_job_is_stored_as(http, queue, body, content_type, stored):
    """It is what its consumer sees."""
    assert put(http, queue, body, content_type).json()["content_type"] == stored
    assert take(http, queue).json()["content_type"] == stored


@pytest.fixture(scope="module")
def hooked(tmp_path_factory):
    """A gateway with keys that grants two senders."""
    data = tmp_path_factory.mktemp("hooked")
    keys = Keyring(data / "keys.toml")
    keys.add("shop")
    granted = ("--webhook-origins", "eventgrid.azure.net", "--webhook-origins", "hooks.example.com")
    flags = ("--keys", str(data / "keys.toml"), *granted)
    with running(data / "data", *flags) as gateway, gateway.client() as http:
        yield http, {"authorization": f"Bearer {keys.secrets['shop']}"}


@pytest.mark.parametrize("path", ["/queues/hook/jobs", "/queues/hook/events"])
@pytest.mark.parametrize("origin", ["eventgrid.azure.net", "EventGrid.azure.net", "hooks.example.com"])
def test_a_listed_sender_is_granted_its_web_hook(hooked, origin, path):
    """Without a key; the delivery itself needs one."""
    http, key = hooked
    answer = http.options(
        "/queues/hook/jobs", headers={"webhook-request-origin": origin, "webhook-request-rate": "120"}
    )
    assert (answer.status_code, answer.content) == (200, b"")
    assert (answer.headers["webhook-allowed-origin"], answer.headers["webhook-allowed-rate"]) == (origin, "*")
    assert answer.headers["allow"] == "OPTIONS, POST"
    delivery = {"webhook-request-origin": origin, "prefer": "return=minimal"}
    assert put(http, "hook", json.dumps(EVENT), STRUCTURED, delivery).status_code == 401
    assert put(http, "hook", json.dumps([EVENT]), BATCH, delivery | key).status_code == 204


@pytest.mark.parametrize("origin", ["evil.example", "", "net", "*", "eventgrid.azure.net.evil.example"])
def test_an_unlisted_sender_is_granted_nothing(hooked, origin):
    """403, and none of the headers that grant."""
    http, _ = hooked
    answer = http.options("/queues/hook/jobs", headers={"webhook-request-origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden-origin")
    assert not [name for name in answer.headers if name.startswith("webhook-")]


def test_a_plain_options_says_which_methods_there_are(hooked):
    """As Knative asks before it delivers; a name that no queue has is a 400."""
    http, _ = hooked
    answer = http.options("/queues/hook/jobs")
    assert (answer.status_code, answer.headers["allow"]) == (200, "OPTIONS, POST")
    assert http.options("/queues/no__name/jobs").status_code == 400


@pytest.mark.parametrize("path", ["/queues/hook/jobs", "/queues/hook/events"])
@pytest.mark.parametrize("query", ["receipt=none", "receipt=none&ttl=60", "ttl=x", "code=abc&id=%FF", "&=&"])
def test_the_handshake_is_done_for_the_url_that_gets_the_events(hooked, path, query):
    """Its query is no part of the question, whatever is in it; without the header that asks it is none, either."""
    http, _ = hooked
    answer = http.options(f"{path}?{query}", headers={"webhook-request-origin": "hooks.example.com"})
    assert (answer.status_code, answer.headers.get("webhook-allowed-origin")) == (200, "hooks.example.com")
    assert http.options(f"{path}?{query}").status_code == 200
    assert http.options(f"{path}?{query}", headers={"webhook-request-origin": "evil.example"}).status_code == 403


def test_any_sender_may_be_granted(lenient):
    """`*` is for all."""
    answer = lenient.options("/queues/q/jobs", headers={"webhook-request-origin": "some.example"})
    assert (answer.status_code, answer.headers["webhook-allowed-origin"]) == (200, "*")


def test_without_a_list_no_sender_is_granted_anything(http):
    """403 says which setting lists them."""
    answer = http.options("/queues/q/jobs", headers={"webhook-request-origin": "some.example"})
    assert answer.status_code == 403
    assert "--webhook-origins" in answer.json()["detail"]


def test_a_path_of_its_own_takes_events_only(http, queue):
    """In every mode, and nothing else: a job that is no event is a 415 that says what to send."""
    path = f"/queues/{queue}/events"
    stored = [
        http.post(path, content=json.dumps(EVENT), headers={"content-type": STRUCTURED}),
        http.post(path, content=json.dumps([EVENT]), headers={"content-type": BATCH}),
        http.post(path, content=b"{}", headers=BINARY | {"content-type": "application/json"}),
    ]
    assert [answer.status_code for answer in stored] == [201] * 3
    assert (
        http.post(path, content=json.dumps(EVENT), headers={"content-type": STRUCTURED, "prefer": "reply"}).content
        == b""
    )
    for content_type in ("application/json", LINES, "text/plain"):
        answer = http.post(path, content=b"{}", headers={"content-type": content_type})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")
        assert STRUCTURED in answer.json()["detail"]
    assert count(http, queue) == 4
