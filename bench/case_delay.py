"""How late delayed jobs are on a quiet gateway, and how soon many that are due in one second are on their queue."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime

import httpx

from bench.plan import Run
from bench.servers import MeasuredServer, gateway
from bench.table import Section, against, percentile
from gateway.envelope.times import instant

LEAD_S = 25.0
"""All jobs of the second part are stored before the first one is due."""
LIMIT_S = 10.0
LINES = {"content-type": "application/x-ndjson"}


def measure(run: Run) -> Section:
    """The table, for one worker and for two."""
    rows = []
    for workers in (1, 2):
        directory = run.plan.directory / f"delay-{workers}"
        with gateway(directory, "--workers", str(workers), "--log-level", "warning") as server:
            run.say(f"{run.plan.delayed:,} delayed jobs of {workers} worker(s)")
            late_ms = _late_ms(server, run.plan.delayed, run.plan.delay_s)
            run.say(f"{run.plan.due:,} jobs due in one second, {workers} worker(s)")
            took_s = _took_s(server, run.plan.due)
        rows.append(
            (
                f"{workers} worker(s)",
                *(f"{percentile(late_ms, each):.0f}" for each in (50, 99, 100)),
                f"{took_s:.1f}",
                f"{run.plan.due / took_s:,.0f}",
                against(took_s, LIMIT_S, " s"),
            )
        )
    return Section(
        f"Delay ({run.plan.delayed:,} jobs of up to {run.plan.delay_s:.0f} s; {run.plan.due:,} jobs due in one second)",
        ("gateway of", "late p50 ms", "p99 ms", "worst ms", "all there, s", "jobs/s", "target"),
        rows,
        "late: from when a job is due until a waiting consumer has it."
        "\nall there: from when the first of the jobs is due until all are on their queue.",
    )


def _late_ms(server: MeasuredServer, jobs: int, longest_s: float) -> list[float]:
    chance = random.Random(7)
    late_ms = []
    with httpx.Client(base_url=f"http://{server.address}", timeout=60) as http:
        delays = [round(chance.uniform(0.1, longest_s), 3) for _ in range(jobs)]
        body = {"jobs": [{"data": {}, "delay": each} for each in delays]}
        results = http.post("/queues/late/jobs/batch", json=body).json()["results"]
        due = {each["id"]: instant(each["due_at"]) for each in results}
        lease = ""
        while due:
            answer = http.get(f"/queues/late/next?timeout=40{lease}")
            job = answer.json()
            late_ms.append((time.time() - due.pop(job["id"])) * 1000)
            lease = f"&ack={job['lease']['id']}"
    return sorted(late_ms)


def _took_s(server: MeasuredServer, jobs: int) -> float:
    with httpx.Client(base_url=f"http://{server.address}", timeout=60) as http:
        first_s = time.time() + LEAD_S
        for start in range(0, jobs, 1000):
            at = [
                datetime.fromtimestamp(first_s + place / jobs, UTC).isoformat() for place in range(start, start + 1000)
            ]
            body = "\n".join(json.dumps({"data": {}, "at": each}) for each in at)
            http.post("/queues/due/jobs/batch", content=body, headers=LINES).raise_for_status()
        late_s = time.time() - first_s
        if late_s > 0:
            raise RuntimeError(f"storing the jobs took {LEAD_S + late_s:.0f} s, more than the time until they are due")
        while http.get("/queues/due?missing=zero").json()["items"] < jobs:
            time.sleep(0.02)
        return time.time() - first_s
