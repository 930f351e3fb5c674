"""`POST /queues/{queue}/jobs/batch`: JSON, text and bytes in one JSON body."""

import json

import pytest


def enqueue(http, queue, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"} | headers
    return http.post(f"/queues/{queue}/jobs/batch", content=content, headers=headers)


def taken(http, queue):
    """The next job's own bytes and type."""
    answer = http.get(f"/queues/{queue}/next?timeout=5&format=raw")
    assert answer.status_code == 200
    return answer.content, answer.headers["content-type"]


@pytest.mark.parametrize(
    ("job", "content", "content_type"),
    [
        (b'{"data": {"n":  1.50, "big": 123456789012345678901234567890}}',
         b'{"n":  1.50, "big": 123456789012345678901234567890}', "application/json"),
        (b'{"data": "text"}', b'"text"', "application/json"),
        (b'{"data": null}', b"null", "application/json"),
        (b'{"data": null, "content_type": null, "data_base64": null}', b"null", "application/json"),
        (b'{"content_type": "application/vnd.x+json", "data": [1]}', b"[1]", "application/vnd.x+json"),
        ('{"data": "Grüße \\n", "content_type": "text/plain"}'.encode(), "Grüße \n".encode(), "text/plain"),
        (b'{"data": "", "content_type": "text/plain"}', b"", "text/plain"),
        (b'{"data_base64": "/wA="}', b"\xff\x00", "application/octet-stream"),
        (b'{"data": null, "data_base64": "/wA=", "content_type": "image/png"}', b"\xff\x00", "image/png"),
        (b'{"data_base64": "WzFd", "content_type": "application/json"}', b"[1]", "application/json"),
    ],
)  # fmt: skip
def test_the_payload_of_each_kind_comes_back_unchanged(http, queue, job, content, content_type):
    """The payload comes back byte for byte, under its type."""
    answer = enqueue(http, queue, b' { "jobs" : [ %b ] } ' % job)
    assert answer.status_code == 201, answer.text
    receipt = answer.json()
    assert (receipt["queue"], receipt["results"][0]["content_type"]) == (queue, content_type)
    assert taken(http, queue) == (content, content_type)


@pytest.mark.parametrize(
    ("job", "detail"),
    [
        (b"{}", "both are missing"),
        (b'{"content_type": "text/plain", "data": null}', "both are missing"),
        (b'{"data": 1, "data_base64": ""}', "not both"),
        (
            b'{"data": 1, "content_type": "text/plain"}',
            "data: the value must be a string, because the content_type 'text",
        ),
        (b'{"data": 1, "content_type": 1}', "content_type: the value must be a string"),
        (b'{"data": 1, "content_type": "nonsense"}', "'nonsense' is not a media type"),
        (b'{"data_base64": "x"}', "data_base64: the value is not a string of base64"),
        (
            b'{"data_base64": "e30", "content_type": "application/json"}',
            "data_base64: the value is not a string of base64",
        ),
        (b'{"data_base64": "/w==", "content_type": "application/json"}', "not JSON"),
        (b'{"data": "\\ud800", "content_type": "text/plain"}', "valid Unicode"),
        (
            b'{"data": {"a": 1}, "content_type": "image/png"}',
            "because the content_type 'image/png' is not JSON",
        ),
        (b'{"data": 1, "data": 2}', "without duplicate members"),
        (b'{"data": 1, "ttl": 2}', "unknown member 'ttl'; allowed are data, data_base64, content_type"),
        (b"1", "one JSON object"),
    ],
)
def test_what_is_wrong_with_a_job_is_named(http, queue, job, detail):
    """Alone it is refused; among others it fails alone."""
    answer = enqueue(http, queue, b'{"jobs": [%b]}' % job)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert detail in answer.json()["detail"]
    answer = enqueue(http, queue, b'{"jobs": [%b, {"data": 7}]}' % job)
    assert (answer.status_code, [each["status"] for each in answer.json()["results"]]) == (207, [400, 201])
    assert taken(http, queue)[0] == b"7"


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b'{"jobs": 1}', b'{"jobs": [1', b'{"jobs": [], "x": 1}', b'{"job": []}', b"{]"]
)
def test_another_body_is_refused(http, queue, body):
    """With what it should be."""
    answer = enqueue(http, queue, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert 'the body is not a JSON object with one member, "jobs"' in answer.json()["detail"]


def test_other_types_are_refused(http, queue):
    """415, with the type to send."""
    for content_type in ("text/plain", "application/cloudevents+json"):
        answer = enqueue(http, queue, b'{"jobs": []}', **{"content-type": content_type})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")
        assert "send application/json" in answer.json()["detail"]


def test_a_repeated_request_stores_once(http, queue):
    """With an Idempotency-Key, as with other jobs."""
    body = {"jobs": [{"data": 1}, {"data": 2}]}
    first, again = (enqueue(http, queue, body, **{"idempotency-key": "order-1"}) for _ in range(2))
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert http.get(f"/queues/{queue}").json()["items"] == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 204),
        ({"accept": "*/*"}, 204),
        ({"accept": "application/json, */*"}, 204),
        ({"accept": "application/json"}, 200),
        ({"accept": "application/json, application/problem+json"}, 200),
        ({"accept": "application/json", "prefer": "return=minimal"}, 204),
        ({"prefer": "return=representation"}, 200),
    ],
)
@pytest.mark.parametrize("verb", ["nack", "reject"])
def test_nack_and_reject_with_a_body(http, queue, verb, headers, status):
    """Only where the client wants one; the same when it is repeated."""
    position = {"nack": "tail", "reject": "dead"}[verb]
    http.post(f"/queues/{queue}/jobs", json=1)
    url = http.get(f"/queues/{queue}/next?timeout=5").json()["lease"]["url"]
    for _ in range(2):
        answer = http.post(f"{url}/{verb}", headers=headers)
        assert answer.status_code == status
        assert answer.content == b"" if status == 204 else answer.json() == {"position": position}
