"""What errors say: what is wrong with the value, what is allowed, what to do."""

import json

import pytest

from tests.api.test_cloudevents import BATCH, EVENT, LINES, STRUCTURED, put

BINARY = {"ce-specversion": "1.0", "ce-source": "/s", "ce-type": "t"}
LONG = "text/" + "x" * 300


def without(name):
    return json.dumps({key: value for key, value in EVENT.items() if key != name})


REFUSED = [
    (without("source"), STRUCTURED, {}, "the attribute `source` is missing"),
    (without("specversion"), STRUCTURED, {}, "the attribute `specversion` is missing"),
    (json.dumps(EVENT | {"specversion": "0.3"}), STRUCTURED, {}, 'the attribute `specversion` must be "1.0"'),
    (json.dumps(EVENT | {"id": ""}), STRUCTURED, {}, "the attribute `id` is empty"),
    (json.dumps(EVENT | {"id": 5}), STRUCTURED, {}, "the attribute `id` must be a string"),
    (
        json.dumps(EVENT | {"x": 1.5}),
        STRUCTURED,
        {},
        "the attribute `x` must be a string, a boolean or a 32-bit integer",
    ),
    (
        json.dumps(EVENT | {"bad_name": "x"}),
        STRUCTURED,
        {},
        "'bad_name' is not a valid attribute name: use 1 to 64 characters of a-z and 0-9",
    ),
    (b"", None, BINARY | {"ce-data": "x"}, "`data` is reserved; it cannot be an attribute"),
    (b"", None, [*BINARY.items(), ("ce-id", "1"), ("ce-id", "2")], "the header ce-id is given twice; send it once"),
    (b"", None, BINARY | {"ce-id": b"\xff"}, "the header ce-id is not UTF-8"),
    (
        json.dumps(EVENT | {"expires": "2020-01-01T00:00:00Z"}),
        STRUCTURED,
        {},
        "expires: 2020-01-01T00:00:00Z is in the past",
    ),
    (
        "[1]",
        STRUCTURED,
        {},
        "the event must be one JSON object, without duplicate members, nested at most 500 levels",
    ),
    (b"1", None, [("content-type", "a/b"), ("content-type", "a/b")], "Content-Type is given 2 times; send it once"),
    (b"1", "application/json-seq", {}, "Content-Type: 'application/json-seq' is not supported; send many jobs as "),
    (
        b"1",
        None,
        {"content-encoding": "gzip"},
        "compressed bodies are not accepted; send the body without Content-Encoding",
    ),
    (b"", "application/json", {}, "the body is empty, but its Content-Type is JSON"),
    (b" \n", "application/json", {}, "the body is empty, but its Content-Type is JSON"),
    (b"{1", "application/json", {}, "the job is not JSON, but its content type says that it is: "),
    (b"{1\n", LINES, {}, "the job is not JSON, but its content type says that it is: "),
    (b" " * 65537 + b"1", LINES, {}, "more than 65536 bytes of white space and empty lines in a row at byte 0"),
    (b"1" + b" " * 65537, LINES, {}, "more than 65536 bytes of white space and empty lines in a row at byte 1"),
    (
        b"1",
        "json",
        {},
        "Content-Type: 'json' is not a media type: it has no slash; send one such as application/json",
    ),
    (b"1", "a/b, c/d", {}, "Content-Type: 'a/b, c/d' is not a media type; send one such as application/json"),
    (b"1", LONG, {}, "Content-Type: the media type has 305 characters, which is above the maximum of 256"),
    (b"x" * ((1 << 20) + 1), None, {}, "the body has 1048577 bytes, which is above the maximum of 1048576"),
]


def test_a_job_that_is_refused(http, queue):
    """Enqueued as a job or an event."""
    for body, content_type, headers, detail in REFUSED:
        given = [*(headers.items() if isinstance(headers, dict) else headers)]
        if content_type is not None:
            given.append(("content-type", content_type))
        answer = http.post(f"/queues/{queue}/jobs", content=body, headers=given)
        assert answer.json()["detail"].startswith(detail), detail
        assert 400 <= answer.status_code < 500, detail


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"a": 1}', "application/json"),
        (b"1\n2\n", LINES),
        (json.dumps(EVENT).encode(), STRUCTURED),
        (json.dumps([EVENT]).encode(), BATCH),
    ],
)
def test_json_is_utf_8(http, queue, body, content_type):
    """Another charset is a 415 that names it, also where the bytes are the same; UTF-8 and its subset are taken."""
    for charset in ("latin1", "UTF-16", '"utf-16"', "iso-8859-1"):
        answer = put(http, queue, body, f"{content_type}; charset={charset}")
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")
        shown = charset.strip('"')
        assert (
            answer.json()["detail"] == f"Content-Type: JSON in the charset {shown!r} is not supported; send it in UTF-8"
        )
    for charset in ("utf-8", '"UTF-8"', "us-ascii"):
        assert put(http, queue, body, f"{content_type}; charset={charset}").status_code == 201
    assert put(http, queue, body, "text/plain; charset=latin1").status_code == 201


LATIN = "application/json; charset=latin1"


@pytest.mark.parametrize(
    ("path", "body", "content_type", "headers", "named"),
    [
        ("jobs", EVENT | {"datacontenttype": LATIN, "data": 1}, STRUCTURED, {}, "datacontenttype"),
        ("jobs", [EVENT | {"datacontenttype": LATIN, "data": 1}], BATCH, {}, "datacontenttype"),
        ("jobs", [EVENT | {"datacontenttype": LATIN, "data_base64": "MQ=="}], BATCH, {}, "datacontenttype"),
        ("jobs", 1, None, BINARY | {"ce-datacontenttype": LATIN}, "datacontenttype"),
        ("jobs", 1, "application/json", BINARY | {"ce-datacontenttype": LATIN}, "datacontenttype"),
        ("jobs/batch", {"jobs": [{"data": 1, "content_type": LATIN}]}, None, {}, "content_type"),
        ("jobs/batch", {"jobs": [{"data_base64": "MQ==", "content_type": LATIN}]}, None, {}, "content_type"),
    ],
)  # fmt: skip
def test_json_is_utf_8_wherever_its_type_is_named(http, queue, path, body, content_type, headers, named):  # noqa: PLR0917
    """An attribute, a `ce-` header, a job in a batch: a 400 that names the place."""
    given = headers if content_type is None else headers | {"content-type": content_type}
    answer = http.post(f"/queues/{queue}/{path}", content=json.dumps(body), headers=given)
    assert answer.status_code == 400
    assert f"{named}: JSON in the charset 'latin1' is not supported; send it in UTF-8" in answer.text
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204


def test_text_in_a_batch_is_utf_8(http, queue):
    """A consumer would decode it wrongly; as bytes it is taken in any charset."""
    for job, status in (
        ({"data": "\u00e9", "content_type": "text/plain; charset=latin1"}, 400),
        ({"data_base64": "6Q==", "content_type": "text/plain; charset=latin1"}, 201),
        ({"data": "\u00e9", "content_type": "text/plain; charset=UTF-8"}, 201),
    ):
        answer = http.post(f"/queues/{queue}/jobs/batch", json={"jobs": [job]})
        assert answer.status_code == status, answer.text
        if status == 400:
            assert "the text in data is stored in UTF-8, not in 'latin1'; send the charset utf-8" in answer.text


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("next?timeout=1s", "timeout: '1s' is not a number of seconds, such as 20 or 0.5"),
        ("next?format=json", "format: 'json' is unknown; the only value is raw"),
        ("next?lease=5&lease_seconds=6", "lease and lease_seconds differ; send only lease_seconds"),
        ("peek?zzz=1", "unknown query parameter 'zzz'; this path accepts format"),
    ],
)
def test_a_query_that_is_refused(http, queue, query, detail):
    answer = http.get(f"/queues/{queue}/{query}")
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


def test_other_errors_are_sentences(http, queue):
    """Each as a sentence that is read once."""
    answer = http.get("/livez?timeout=1")
    assert answer.json()["detail"] == "unknown query parameter 'timeout'; this path accepts none"
    answer = http.post(f"/queues/{queue}/events", content=b"{}", headers={"content-type": "application/json"})
    assert answer.json()["detail"].startswith("Content-Type: 'application/json' is not an event type; send ")
    answer = http.post(f"/queues/{queue}/events", content=b"{}")
    assert answer.json()["detail"].startswith("the Content-Type is missing; send application/cloudevents+json or ")
    answer = http.post(f"/queues/{queue}/jobs/batch", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.json()["detail"] == (
        "Content-Type: 'text/plain' is not supported on this path; send application/json, or application/x-ndjson with "
        "one job object on each line"
    )
    for body in (b"1", b"2"):
        answer = put(http, queue, body, None, {"idempotency-key": "k"})
    assert answer.json()["detail"] == "this Idempotency-Key was already used for a different request; use a new key"


@pytest.mark.parametrize(
    ("call", "body", "detail"),
    [
        ("POST redrive", {"to": "a b"}, "to: 'a b' is not a queue name: use 1 to 64 characters of A-Z a-z 0-9 _ -, "),
        (
            "POST redrive",
            {"to": "q__dead"},
            "to: 'q__dead' is not a queue name: use 1 to 64 characters of A-Z a-z 0-9 _ -, begin and end with a letter",
        ),
        ("POST redrive", {"to": "dead"}, "'dead' is a reserved queue name; choose another one"),
        (
            "POST redrive",
            {"to": "fan+a"},
            "to: 'fan+a' is a subscription, which gets only the jobs of its queue; name a queue",
        ),
        ("POST redrive", {"to": "x" * 70}, "to: the value has 70 characters, which is above the maximum of 64"),
        ("PUT pause", {"reason": "x" * 250}, "reason: the value has 250 characters, which is above the maximum of 200"),
        ("POST jobs/batch", {"jobs": [{"data": 1, "at": "a b"}]}, "at: 'a b' is not an RFC 3339 timestamp, such as "),
        ("POST jobs/batch", {"jobs": [{"data": 1, "at": 5}]}, "at: 5 is not an RFC 3339 timestamp, such as "),
        ("POST jobs?at=5", 1, "at: '5' is not an RFC 3339 timestamp, such as 2026-01-31T12:00:00Z"),
        ("POST jobs?delay=-1", 1, "delay: -1 is not between 0 and 2592000 seconds"),
    ],
)
def test_a_message_says_what_is_allowed_and_repeats_no_long_value(http, queue, call, body, detail):
    """No regular expression, no advice for another place, and the value only if it is short."""
    http.post(f"/queues/{queue}/jobs", json=1)
    method, path = call.split()
    answer = http.request(method, f"/queues/{queue}/{path}", json=body)
    assert answer.status_code == 400
    shown = answer.json()["results"][0]["detail"] if "results" in answer.json() else answer.json()["detail"]
    assert shown.startswith(detail)
    assert "%2B" not in shown


def test_a_message_advises_what_helps(http, queue):
    """A consumer cannot change the ttl of its job, and who deletes a subscription does not want one."""
    http.post(f"/queues/{queue}/jobs?ttl=20", json=1)
    lease = http.get(f"/queues/{queue}/next").json()["lease"]["url"]
    answer = http.post(f"{lease}/nack", json={"delay": 30})
    assert answer.json()["code"] == "delay-beyond-expiry"
    assert answer.json()["detail"].endswith("; send a shorter delay, or ack the job if it is not worth another attempt")
    http.post(f"{lease}/ack")
    unknown = f"/queues/{queue}/subscriptions/nosuch"
    assert "create it with PUT" in http.get(unknown).json()["detail"]
    assert http.delete(unknown).json()["detail"] == f"the queue {queue!r} has no subscription 'nosuch'"
