"""`work --batch`: many jobs for one run of the command, with one verdict for all."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.lab.endpoint import Endpoint, EndpointReply
from tests.work.conftest import Put, Start
from tests.work.test_exec import AT_ONCE


def collector(folder: Path, code: str = "exit 0") -> tuple[str, ...]:
    """A command that keeps its input and the number of jobs, then runs `code`."""
    script = f'cat >{folder}/$$.jobs; echo "$KESTREL_JOB_COUNT $KESTREL_JOB_ATTEMPT" >{folder}/$$.count; {code}'
    return ("--exec", "sh", "-c", script)


def seen(folder: Path) -> list[tuple[str, list[dict[str, object]]]]:
    """For each run the number of jobs with the highest attempt, and the jobs."""
    return [
        (each.with_suffix(".count").read_text().strip(), [json.loads(line) for line in each.read_text().splitlines()])
        for each in sorted(folder.glob("*.jobs"), key=lambda each: each.stat().st_mtime_ns)
    ]


def test_all_are_acked_together(start: Start, put: Put, queue: str, rest, tmp_path: Path):
    """Each run gets as many as there are up to N, in order; --max-jobs counts jobs."""
    put(*(f"job {number}" for number in range(23)))
    worker = start(queue, "--batch", "10", "--max-jobs", "21", *collector(tmp_path))
    assert worker.wait() == 0
    runs = seen(tmp_path)
    assert [count for count, _ in runs] == ["10 1", "10 1", "1 1"]
    assert [job["data"] for _, jobs in runs for job in jobs] == [f"job {number}" for number in range(21)]
    assert sorted(rest()) == ["job 21", "job 22"]


def test_numbers_keep_their_digits(start: Start, http: httpx.Client, queue: str, tmp_path: Path):
    """The lines have the bytes of the jobs."""
    for body in (b'{"a": 12345678901234567890123, "b": 1.10}', b'{"a": 1.0}'):
        http.post(
            f"/queues/{queue}/jobs", content=body, headers={"Content-Type": "application/json"}
        ).raise_for_status()
    assert start(queue, "--batch", "10", "--max-jobs", "2", *collector(tmp_path)).wait() == 0
    text = "".join(each.read_text() for each in tmp_path.glob("*.jobs"))
    assert '{"a": 12345678901234567890123, "b": 1.10}' in text
    assert '{"a": 1.0}' in text


def test_a_failure_is_that_of_all(start: Start, put: Put, queue: str, dead, tmp_path: Path):
    """They are retried, in smaller batches; 65 makes all of them dead letters with the reason."""
    put(*(f"job {number}" for number in range(8)))
    script = 'if [ "$KESTREL_JOB_ATTEMPT" = 1 ]; then exit 1; else echo bad >&2; exit 65; fi'
    worker = start(queue, *AT_ONCE, "--batch", "8", "--max-jobs", "16", *collector(tmp_path, script))
    assert worker.wait() == 0
    runs = seen(tmp_path)
    assert runs[0][0] == "8 1"
    assert {count for count, _ in runs[1:]} <= {"2 2", "1 2"}
    assert sum(len(jobs) for _, jobs in runs) == 16
    assert dead() == {f"job {number}": "exit status 65: bad" for number in range(8)}


def test_a_missing_command_uses_up_no_attempt(start: Start, put: Put, queue: str, rest, tmp_path: Path):
    """All jobs of the batch are back, in order, as if they had not been taken."""
    put("a", "b", "c")
    assert start(queue, "--batch", "3", *collector(tmp_path, "exit 127")).wait() == 127
    assert [(job, attempt) for job, (attempt, _) in rest().items()] == [("a", 1), ("b", 1), ("c", 1)]


def test_an_endpoint_gets_a_batch_in_one_request(start: Start, put: Put, queue: str, rest, dead):
    """The body has a line of JSON for each job, in order, and the answer is the verdict for all of them."""
    put(*(f"job {number}" for number in range(25)))
    replies = {"job 0": EndpointReply(204), "job 10": EndpointReply(410, b"gone"), "job 20": EndpointReply(503)}
    with Endpoint(lambda posted: replies[json.loads(posted.body.splitlines()[0])["data"]]) as web:
        worker = start(queue, *AT_ONCE, "--batch", "10", "--max-jobs", "25", "--to", web.url)
        assert worker.wait() == 0
    bodies = [[json.loads(line)["data"] for line in posted.body.splitlines()] for posted in web.posted]
    assert bodies == [[f"job {number}" for number in range(first, min(first + 10, 25))] for first in (0, 10, 20)]
    for posted in web.posted:
        assert posted.headers["content-type"] == "application/x-ndjson"
        assert (posted.headers["kestrel-queue"], "lease-id" in posted.headers) == (queue, True)
    assert {job: attempt for job, (attempt, _) in rest().items()} == {f"job {number}": 2 for number in range(20, 25)}
    assert dead() == {f"job {number}": "status 410: gone" for number in range(10, 20)}
