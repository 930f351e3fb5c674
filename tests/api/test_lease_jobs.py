"""`POST /queues/{queue}/leases`: `next` for clients that need a body in every answer."""

import json
import socket
import threading
import time

import pytest

JOB_MEMBERS = ["id", "queue", "attempt", "enqueued_at", "content_type", "data", "attributes"]


def lease(http, queue, **body):
    answer = http.post(f"/queues/{queue}/leases", json=body)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def test_a_job_and_its_lease(http, queue):
    """The job as `next` shows it, together with its lease; the lease can be settled."""
    stored = http.post(f"/queues/{queue}/jobs", content=b'{"n":  1.50}', headers={"content-type": "application/json"})
    answer = http.post(f"/queues/{queue}/leases", json={"timeout": 5, "lease_seconds": 30})
    taken = answer.json()
    assert list(taken) == ["jobs", "lease"]
    assert list(taken["jobs"][0]) == JOB_MEMBERS
    assert (taken["jobs"][0]["id"], taken["jobs"][0]["attempt"]) == (stored.json()["id"], 1)
    assert b'{"n":  1.50}' in answer.content
    known = http.get(taken["lease"]["url"]).json()
    assert (known["id"], known["expires_at"]) == (taken["lease"]["id"], taken["lease"]["expires_at"])
    assert http.post(taken["lease"]["url"] + "/ack").status_code == 204
    assert lease(http, queue, timeout=0) == {"jobs": []}


def test_bytes_and_text_are_in_the_member_of_next(http, queue):
    """The payload is in the member where `next` has it."""
    for content, content_type in ((b"\xff\x00", "image/png"), ("ä".encode(), "text/plain")):
        http.post(f"/queues/{queue}/jobs", content=content, headers={"content-type": content_type})
    jobs = [lease(http, queue, timeout=5)["jobs"][0] for _ in range(2)]
    assert [(job.get("data_base64"), job.get("data"), job["content_type"]) for job in jobs] == [
        ("/wA=", None, "image/png"),
        (None, "ä", "text/plain"),
    ]


def test_it_waits_for_a_job(http, queue):
    """A job that is enqueued during the wait ends it."""
    producer = threading.Timer(0.5, http.post, [f"/queues/{queue}/jobs"], {"json": 1})
    producer.start()
    began_s = time.monotonic()
    assert lease(http, queue, timeout=20)["jobs"][0]["data"] == 1
    assert 0.4 < time.monotonic() - began_s < 10
    producer.join()


def test_the_job_in_hand_is_acked_first(http, queue):
    """As `next?ack=`: the job in hand is acked, and where that fails no job is taken."""
    for number in (1, 2):
        http.post(f"/queues/{queue}/jobs", json=number)
    first = lease(http, queue, timeout=5)["lease"]
    answer = http.post(f"/queues/{queue}/leases", json={"timeout": 5, "ack": first["id"]})
    assert (answer.json()["jobs"][0]["data"], answer.headers["lease-acked"]) == (2, "true")
    second = answer.json()["lease"]
    assert http.post(second["url"] + "/reject").status_code == 204
    answer = http.post(f"/queues/{queue}/leases", json={"timeout": 0, "ack": second["id"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "lease-settled")
    assert "lease-acked" not in answer.headers


@pytest.mark.parametrize("body", ["", "null", "{}", '{"timeout": null, "lease_seconds": null, "ack": null}'])
def test_everything_is_optional(http, queue, body):
    """No body, an empty one, or nulls, which some clients write for what is absent."""
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.post(f"/queues/{queue}/leases", content=body, headers={"content-type": "application/json"})
    assert answer.json()["jobs"][0]["data"] == 1


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ('{"timeout": 46}', "timeout: 46 is greater than the maximum of 45"),
        ('{"timeout": -1}', "timeout: -1 is less than the minimum of 0"),
        ('{"lease_seconds": 0}', "lease_seconds: 0 is less than the minimum of 1"),
        ('{"wait": 1}', "wait"),
        ("[]", "object"),
        ('{"ack": "x"}', "ack: "),
    ],
)
def test_what_is_wrong_is_named(http, queue, body, detail):
    """And takes no job."""
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.post(f"/queues/{queue}/leases", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert detail in answer.json()["detail"]
    assert http.get(f"/queues/{queue}").json()["open_reads"] == 0


def test_a_client_that_goes_away_takes_no_job(gateway, http, queue):
    """Be it while it waits, or while the answer is on its way."""
    body = json.dumps({"timeout": 20}).encode()
    head = f"POST /queues/{queue}/leases HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
        client.sendall(head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        while http.get(f"/queues/{queue}").status_code == 404:
            time.sleep(0.01)
    http.post(f"/queues/{queue}/jobs", json=1)
    assert lease(http, queue, timeout=5)["jobs"][0]["attempt"] == 1
