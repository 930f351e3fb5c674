"""Lines with `Prefer: return=minimal`: enqueued as they arrive, however many; the answer lists only failures."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

LINES = {"content-type": "application/x-ndjson", "prefer": "return=minimal"}
MIB = int(os.environ.get("KESTREL_GATEWAY_TEST_LINES_MIB", "16"))


def stored(http, queue):
    """The numbers on the queue, in order."""
    numbers = []
    while (answer := http.get(f"/queues/{queue}/next?max=100&timeout=0&ack=auto")).status_code == 200:
        numbers += [job["data"] for job in answer.json()["jobs"]]
    return numbers


def test_there_is_no_limit_of_jobs(http, queue):
    """More than a request may have otherwise, in order; an empty line is no job."""
    body = b"\n".join(b"%d\n" % number if number % 7 == 0 else b"%d" % number for number in range(1200))
    answer = http.post(f"/queues/{queue}/jobs", content=body, headers=LINES)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["preference-applied"] == "return=minimal"
    assert stored(http, queue) == list(range(1200))


@pytest.mark.parametrize("path", ["jobs", "jobs/batch"])
def test_receipt_none_is_the_same(http, queue, path):
    """Without a header, for a sender that can set only its URL: no limit of jobs, and only failures are listed."""
    lines = [b'{"data": %d}' % number for number in range(1100)]
    lines[7] = b"{"
    headers = {"content-type": LINES["content-type"]}
    answer = http.post(f"/queues/{queue}/{path}?receipt=none", content=b"\n".join(lines), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "partly-stored"), answer.text
    assert [each["job"] for each in answer.json()["failures"]] == [7]
    answer = http.post(f"/queues/{queue}/{path}?receipt=none", content=b"\n".join(lines[8:]), headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "preference-applied" not in answer.headers
    assert http.get(f"/queues/{queue}").json()["items"] == 1099 + 1092
    http.delete(f"/queues/{queue}")


def test_lines_of_job_objects(http, queue):
    """The same on the path for job objects."""
    body = b"\n".join(b'{"data": %d}' % number for number in range(1100))
    assert http.post(f"/queues/{queue}/jobs/batch", content=body, headers=LINES).status_code == 204
    assert stored(http, queue) == list(range(1100))


def test_only_failures_are_listed(http, queue):
    """Each with the place of its job; the others are stored."""
    lines = [b"%d" % number for number in range(1100)]
    lines[3], lines[1099] = b"{", b"[1,"
    answer = http.post(f"/queues/{queue}/jobs", content=b"\n".join(lines), headers=LINES)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, "partly-stored")
    assert problem["detail"].startswith("1098 of 1100 jobs were stored. The first failure: invalid-body: ")
    assert [(each["job"], each["status"], each["code"]) for each in problem["failures"]] == [
        (3, 400, "invalid-body"),
        (1099, 400, "invalid-body"),
    ]
    assert stored(http, queue) == [number for number in range(1100) if number not in (3, 1099)]


def test_a_body_that_cannot_be_read_to_its_end(http, queue):
    """The answer says how many jobs are stored."""

    def body() -> Iterator[bytes]:
        yield b"".join(b"%d\n" % number for number in range(200))
        yield b'"' + b"x" * (3 << 20)

    answer = http.post(f"/queues/{queue}/jobs", content=body(), headers=LINES)
    assert (answer.status_code, answer.json()["code"]) == (413, "job-too-large")
    assert answer.json()["detail"].endswith("; the first 200 jobs are stored")
    assert stored(http, queue) == list(range(200))


@pytest.mark.parametrize(
    ("line", "said", "stored"), [(b"1\n", "the first job is stored", 1), (b"{\n", "no job is stored", 0)]
)
def test_a_body_that_ends_early_behind_one_job(http, queue, line, said, stored):
    """The answer says in words whether that job is stored."""
    body = iter([line, b'"' + b"x" * (3 << 20)])
    problem = http.post(f"/queues/{queue}/jobs", content=body, headers=LINES).json()
    assert problem["detail"].endswith(f"; {said}")
    assert (problem["jobs_decided"], problem["jobs_stored"]) == (1, stored)


def test_with_an_idempotency_key_the_limits_hold(http, queue):
    """Its fingerprint needs the whole body."""
    body = b"\n".join(b"%d" % number for number in range(1001))
    answer = http.post(f"/queues/{queue}/jobs", content=body, headers=LINES | {"idempotency-key": '"k"'})
    assert answer.status_code == 413


def test_memory_does_not_grow_with_the_body(http, queue, gateway):
    """A long body goes through a worker that has a few MiB for it. KESTREL_GATEWAY_TEST_LINES_MIB makes it longer."""
    line = json.dumps("x" * 60_000).encode() + b"\n"
    count = (MIB << 20) // len(line)
    http.post(f"/queues/{queue}/jobs", content=line * 50, headers=LINES)
    before = peak_bytes(gateway)
    answer = http.post(f"/queues/{queue}/jobs", content=(line for _ in range(count)), headers=LINES, timeout=1800)
    assert answer.status_code == 204, answer.text
    assert http.get(f"/queues/{queue}").json()["items"] == count + 50
    grown = peak_bytes(gateway) - before
    print(f"{MIB} MiB: the peak grew by {grown >> 10} KiB")
    assert grown < 10 << 20
    http.delete(f"/queues/{queue}")


def peak_bytes(gateway) -> int:
    """The largest memory that its worker has had."""
    parent = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
    peaks = []
    for pid in parent:
        if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes() or len(parent) == 1:
            status = Path(f"/proc/{pid}/status").read_text()
            peaks.append(int(status.split("VmHWM:")[1].split()[0]) << 10)
    return max(peaks or [0]) or pytest.fail("no worker")
