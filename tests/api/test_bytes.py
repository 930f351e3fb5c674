"""A job's body comes back byte for byte, whichever way the job went before."""

import pytest

from tests.lab.examples import some
from tests.lab.gateway import running

BODIES = {
    "application/json": [b'\n{"a": 1}\n', b" 1.10\r\n", b'{"a":1,"a":2}\t', b'\n"\\ud800"\n'],
    'application/json; of=":"': [b'\n{"a": 1}\n'],
    "text/plain; charset=utf-8": [b"\xef\xbb\xbfline\r\n", b'","data":1}', b"\n{}\n"],
    "text/plain; charset=utf-16": [b"\xff\xfea\x00"],
    "application/octet-stream": [b"\x00\xff\n", b""],
}
JOBS = [(content_type, body) for content_type, bodies in BODIES.items() for body in bodies]


def take_raw(http, queue, **query):
    answer = http.get(f"/queues/{queue}/next", params={"format": "raw", "timeout": 5, **query})
    assert answer.status_code == 200, answer.text
    return answer.headers["content-type"], answer.content, answer.headers["location"]


def assert_next(http, queue, job, attempt):
    """The next job is this one; its lease's path."""
    content_type, body, lease = take_raw(http, queue)
    assert (content_type, body) == job
    assert http.get(lease).json()["attempt"] == attempt
    return lease


@pytest.mark.parametrize("job", some(JOBS, fewest=5))  # JSON, text and bytes; the next test has all of them
def test_a_body_survives_every_settlement(http, queue, job):
    """A nack to the tail and to the head, a reject, a look at the dead letter, a redrive, and one more nack."""
    content_type, body = job
    assert http.post(f"/queues/{queue}/jobs", content=body, headers={"Content-Type": content_type}).status_code == 201
    lease = assert_next(http, queue, job, 1)
    assert http.post(f"{lease}/nack", json={"position": "tail", "reason": "no"}).status_code == 204
    lease = assert_next(http, queue, job, 2)
    assert http.post(f"{lease}/nack", json={"position": "head"}).status_code == 204
    lease = assert_next(http, queue, job, 3)
    assert http.post(f"{lease}/reject", json={"reason": "never"}).status_code == 204
    assert http.post(f"/queues/{queue}/redrive").json() == {"redriven": 1, "expired": 0, "left": 0}
    lease = assert_next(http, queue, job, 1)
    assert http.post(f"{lease}/nack").status_code == 204
    assert http.post(f"{assert_next(http, queue, job, 2)}/ack").status_code == 204


def test_a_body_survives_the_end_of_its_lease_and_its_last_attempt(http, queue):
    """An expired lease makes a copy; so does the way to the dead letters."""
    for content_type, body in JOBS:
        http.post(f"/queues/{queue}/jobs", content=body, headers={"Content-Type": content_type})
    for _ in JOBS:
        take_raw(http, queue, lease=1)
    again = []
    for _ in JOBS:
        content_type, body, lease = take_raw(http, queue)
        again.append((content_type, body))
        assert http.get(lease).json()["attempt"] == 2
        assert http.post(f"{lease}/reject").status_code == 204
    assert sorted(again) == sorted(JOBS)
    http.post(f"/queues/{queue}/redrive")
    redriven = [take_raw(http, queue) for _ in JOBS]
    assert sorted(each[:2] for each in redriven) == sorted(JOBS)
    for *_, lease in redriven:
        http.post(f"{lease}/ack")


def test_a_body_survives_a_drain_and_a_raw_queue(tmp_path):
    """Leases that a stop ends give the stored item back; a raw queue's bodies are wrapped for the dead letters only."""
    (tmp_path / "queues.toml").write_text('[queues.plain]\nformat = "raw"\n')
    flags = ("--queues", str(tmp_path / "queues.toml"), "--grace", "0.2")
    body = b'\n{"a": 1}\n'
    with running(tmp_path / "data", *flags) as gateway, gateway.client() as http:
        for queue in ("plain", "wrapped"):
            http.post(f"/queues/{queue}/jobs", content=body, headers={"Content-Type": "application/json"})
            assert take_raw(http, queue)[1] == body
        gateway.stop()
        gateway.start()
        for queue in ("plain", "wrapped"):
            lease = take_raw(http, queue)[2]
            assert http.post(f"{lease}/reject").status_code == 204
            assert http.post(f"/queues/{queue}/redrive").json()["redriven"] == 1
            _, found, lease = take_raw(http, queue)
            assert found == body
            http.post(f"{lease}/ack")
