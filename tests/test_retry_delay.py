"""Back-off: the policy's value, its arithmetic, and what it does to jobs that fail."""

from __future__ import annotations

import time
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.retry_delay import LONGEST_DELAY_S, RetryDelay, retry_delay
from gateway.envelope.times import instant
from tests.lab.examples import examples
from tests.lab.gateway import running
from tests.lab.waiting import until


@pytest.mark.parametrize(
    "value",
    [
        [],
        [-1],
        [LONGEST_DELAY_S + 1],
        [True],
        ["1"],
        [float("nan")],
        5,
        "5",
        {},
        {"min": 1},
        {"max": 1},
        {"min": 0, "max": 1},
        {"min": 2, "max": 1},
        {"min": 1, "max": 2, "factor": 0.5},
        {"min": 1, "max": 2, "jitter": 1.1},
        {"min": 1, "max": 2, "other": 1},
        [0] * 101,
    ],
)
def test_a_wrong_value_is_refused(value):
    """Neither a wrong type nor a number out of its range."""
    with pytest.raises(ValueError):
        retry_delay(value)


def test_a_list_goes_on_with_its_last_value():
    """One value for each attempt, the last one for all further ones."""
    delay = retry_delay([0, 1.5, 60])
    assert [delay.after(attempt, 0.5) for attempt in (1, 2, 3, 4, 1_000_000)] == [0, 1.5, 60, 60, 60]


def test_a_delay_grows_by_its_factor():
    """From the shortest to the longest one; by default it doubles."""
    delay = retry_delay({"min": 1, "max": 100})
    assert [delay.after(attempt, 0.5) for attempt in (1, 2, 3, 7, 8, 1_000_000)] == [1, 2, 4, 64, 100, 100]
    assert retry_delay({"min": 3, "max": 3, "factor": 1}).after(9, 0.5) == 3


@given(
    st.floats(0.001, 1000),
    st.floats(0, 1000),
    st.floats(1, 100),
    st.floats(0, 1),
    st.integers(1, 10**6),
    st.floats(0, 1),
)
def test_a_delay_is_within_its_bounds(least, more, factor, jitter, attempt, chance):  # noqa: PLR0917
    """Whatever the attempt, without overflow."""
    delay = RetryDelay((), least, least + more, factor, jitter)
    plain = delay.after(attempt, 0.5)
    assert least * 0.999 <= plain <= (least + more) * 1.001
    assert plain * (1 - jitter) * 0.999 <= delay.after(attempt, chance) <= plain * (1 + jitter) * 1.001


POLICIES = """
[queues.listed]
retry_delay = [0.2, 0.4, 0.1]
max_attempts = 4
[queues.grown]
retry_delay = { min = 0.1, max = 0.4, factor = 2, jitter = 0.5 }
max_attempts = 4
[queues.expiring]
retry_delay = [60]
"""
LATE_S = 20
"""A job may be this late on a busy machine."""
JOBS = {
    ("nack", "listed"): examples(20, fewest=8),
    ("nack", "grown"): examples(48, fewest=16),
    ("expiry", "listed"): examples(8, fewest=4),
    ("expiry", "grown"): examples(8, fewest=4),
}
"""How many fail at once. Chance decides about the times of those whose delay grows. Three of each job are seen: half as
much jitter again goes below the bound one time in six, which 48 times show."""


@pytest.fixture(scope="module")
def backing_off(tmp_path_factory):
    directory = tmp_path_factory.mktemp("backing_off")
    (directory / "queues.toml").write_text(POLICIES)
    with running(directory / "data", "--queues", str(directory / "queues.toml"), "--workers", "2") as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("name", "bounds"),
    [("listed", [(0.2, 0.2), (0.4, 0.4), (0.1, 0.1)]), ("grown", [(0.05, 0.15), (0.1, 0.3), (0.2, 0.6)])],
)
@pytest.mark.parametrize("way", ["nack", "expiry"])
def test_failing_jobs_back_off(backing_off, name, bounds, way):
    """Between the attempts of each job lies the policy's time, for nacks and for expired leases; then it is dead."""
    jobs = JOBS[way, name]
    over: dict[str, list[float]] = defaultdict(list)
    due: dict[str, list[float]] = defaultdict(list)
    taken: dict[str, list[float]] = defaultdict(list)
    with backing_off.client() as http:
        http.delete(f"/queues/{name}/dead-letters")
        lines = "\n".join(str(number) for number in range(jobs))
        http.post(f"/queues/{name}/jobs", content=lines, headers={"content-type": "application/x-ndjson"})
        while sum(map(len, taken.values())) < 4 * jobs:
            job = http.get(f"/queues/{name}/next?timeout=20&lease_seconds=1").json()
            taken[job["id"]].append(time.time())
            if way == "expiry":
                over[job["id"]].append(instant(job["lease"]["expires_at"]))
                continue
            over[job["id"]].append(time.time())
            nacked = http.post(job["lease"]["url"] + "/nack")
            assert (nacked.status_code, "due_at" in nacked.json()) == (200, job["attempt"] < 4)
            if job["attempt"] < 4:
                due[job["id"]].append(instant(nacked.json()["due_at"]))
        for each, attempts in taken.items():
            assert len(attempts) == 4
            for (low, high), ended_s, again_s in zip(bounds, over[each], attempts[1:], strict=False):
                assert low - 0.002 <= again_s - ended_s
                if way == "expiry":
                    assert again_s - ended_s <= high + LATE_S
            for (low, high), ended_s, due_s, again_s in zip(bounds, over[each], due[each], attempts[1:], strict=False):
                assert low - 0.002 <= due_s - ended_s <= high + LATE_S
                assert again_s >= due_s
        until(lambda: http.get(f"/queues/{name}/dead-letters").json()["items"] == jobs)


def test_a_request_decides_before_the_policy(backing_off):
    """`delay: 0` and `position: head` mean now; a policy's delay beyond the expiry is left out, a request's refused."""
    with backing_off.client() as http:
        http.post("/queues/expiring/jobs?ttl=30", json=1)

        def taken():
            answer = http.get("/queues/expiring/next?timeout=5")
            assert answer.status_code == 200
            return answer.json()["lease"]["url"] + "/nack"

        assert http.post(taken(), json={"delay": 0}).status_code == 204
        assert http.post(taken(), json={"position": "head"}).status_code == 204
        assert http.post(taken()).status_code == 204
        refused = taken()
        answer = http.post(refused, json={"delay": 60})
        assert (answer.status_code, answer.json()["code"]) == (400, "delay-beyond-expiry")
        assert http.post(refused.replace("/nack", "/ack")).status_code == 204
        http.post("/queues/expiring/jobs", json=1)
        later = taken()
        answer = http.post(later)
        assert (answer.status_code, answer.json()["position"]) == (200, "tail")
        shown = http.get(later.removesuffix("/nack")).json()
        assert (shown["state"], shown["expires_at"], shown["position"]) == ("delayed", answer.json()["due_at"], "tail")
