"""Delayed jobs and delayed nacks while workers, the broker and the whole gateway are killed with SIGKILL.

    python -m tests.delay.kills --jobs 2000 --nacks 200 --seconds 40 --seed 7

Prints how many jobs came early, were lost, and came twice, and how late they were.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from gateway.envelope.times import instant
from tests.lab.gateway import Running
from tests.lab.processes import children_of

QUIET_S = 30.0
"""After the last kill, a job that is due is taken for lost if none comes for so long."""


@dataclass
class History:
    """due: when each stored job is due, by its number. again: when a job that was nacked is due, by its number. nacked:
    for each nack of a job, also without an answer, the earliest time at which it may be due. set_aside: jobs whose nack
    said that no copy was stored, so that they come back if the gateway stops. came: each delivery of a job: time and
    attempt. acked: the jobs whose ack was answered, and when. left: at the end, the jobs on holding queues and on their
    queue."""

    due: dict[int, float] = field(default_factory=dict)
    again: dict[int, float] = field(default_factory=dict)
    nacked: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    set_aside: set[int] = field(default_factory=set)
    came: dict[int, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    acked: dict[int, float] = field(default_factory=dict)
    kills: int = 0
    left: tuple[int, int] = (0, 0)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def early(self) -> list[int]:
        """Jobs that came before they were due, first or again. A job that was nacked several times, because a kill left
        two copies or no answer, may be due by any of its nacks."""
        firsts = [job for job, due_s in self.due.items() if any(at_s < due_s for at_s, n in self.came[job] if n == 1)]
        again = {
            job: due_s if len(self.nacked[job]) == 1 else min(self.nacked[job]) for job, due_s in self.again.items()
        }
        return firsts + [
            job for job, due_s in again.items() if any(at_s < due_s for at_s, n in self.came[job] if n > 1)
        ]

    @property
    def lost(self) -> list[int]:
        return [job for job in self.due if not self.came[job]] + [
            job for job in self.again if job not in self.acked and not any(n > 1 for _, n in self.came[job])
        ]

    @property
    def twice(self) -> int:
        """Deliveries in addition to the first one of each attempt."""
        return sum(len(came) - len({n for _, n in came}) for came in self.came.values())

    @property
    def copies(self) -> int:
        """Deliveries after an ack that was answered: of a second copy, which an interrupted move has left."""
        return sum(at_s > acked_s for job, acked_s in self.acked.items() for at_s, _ in self.came[job])

    @property
    def late_s(self) -> list[float]:
        """How late each job came first, sorted."""
        return sorted(min(self.came[job])[0] - due_s for job, due_s in self.due.items() if self.came[job])


def percentile(values: list[float], percent: float) -> float:
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


class Run:
    """jobs: with a delay of 0.1 to `longest_s`. nacks: of them, nacked once with a delay. seconds: of kills."""

    def __init__(self, gateway: Running, *, jobs: int, nacks: int, longest_s: float, seed: int) -> None:
        self.gateway = gateway
        self.jobs = jobs
        self.nacks = nacks
        self.longest_s = longest_s
        self.chance = random.Random(seed)
        self.history = History()
        self.produced = threading.Event()
        self.over = threading.Event()

    def produce(self, span_s: float) -> None:
        """Enqueues the jobs within the span; a job whose enqueue has no answer is not counted."""
        pause_s = span_s / self.jobs
        with self.gateway.client() as http:
            for job in range(self.jobs):
                delay_s = round(self.chance.uniform(0.1, self.longest_s), 3)
                with contextlib.suppress(httpx.TransportError):
                    answer = http.post(f"/queues/q/jobs?delay={delay_s}", json=job)
                    if answer.status_code == 201:
                        with self.history.lock:
                            self.history.due[job] = instant(answer.json()["due_at"])
                time.sleep(pause_s)
        self.produced.set()

    def consume(self) -> None:
        with self.gateway.client() as http:
            while not self.over.is_set():
                with contextlib.suppress(httpx.TransportError):
                    self.take(http)

    def take(self, http: httpx.Client) -> None:
        answer = http.get("/queues/q/next?timeout=1&lease_seconds=20")
        if answer.status_code != 200:
            time.sleep(0.02)
            return
        at_s = time.time()
        delivery = answer.json()
        job, attempt, url = delivery["data"], delivery["attempt"], delivery["lease"]["url"]
        with self.history.lock:
            self.history.came[job].append((at_s, attempt))
        if job < self.nacks and attempt == 1 and job not in self.history.again:
            delay_s = round(self.chance.uniform(0.1, self.longest_s / 2), 3)
            with self.history.lock:
                self.history.nacked[job].append(time.time() + delay_s)
            nacked = http.post(f"{url}/nack", json={"delay": delay_s})
            if nacked.status_code == 200 and "due_at" in nacked.json():
                with self.history.lock:
                    self.history.again[job] = instant(nacked.json()["due_at"])
                    if nacked.json()["position"] == "head":
                        self.history.set_aside.add(job)
        elif http.post(f"{url}/ack").status_code == 204:
            with self.history.lock:
                self.history.acked.setdefault(job, time.time())

    def kill(self, seconds: float, every_s: float) -> None:
        """A worker, the broker and the whole gateway in turn."""
        ends_s = time.monotonic() + seconds
        turn = 0
        while time.monotonic() < ends_s:
            time.sleep(every_s)
            turn += 1
            if turn % 3 == 0:
                self.gateway.kill()
                self.gateway.start()
            else:
                word = "worker" if turn % 3 == 1 else "broker"
                processes = [pid for pid, line in children_of(self.gateway.process.pid).items() if word in line]
                if not processes:
                    continue
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.chance.choice(processes), signal.SIGKILL)
            self.history.kills += 1

    def finish(self) -> None:
        """Returns when every job was acked, or nothing has come for a while after the last one was due."""
        quiet_since_s, came = time.monotonic(), -1
        while time.monotonic() < quiet_since_s + self.longest_s + QUIET_S:
            if not self.history.due.keys() - self.history.acked:
                break
            time.sleep(0.1)
            with self.history.lock:
                now = sum(map(len, self.history.came.values()))
            if now != came:
                quiet_since_s, came = time.monotonic(), now
        with self.gateway.client() as http:
            servers = http.get("/backends").json()["backends"]
            self.history.left = (
                sum(each.get("delayed", 0) for each in servers),
                http.get("/queues/q?missing=zero").json()["backlog"],
            )
        self.over.set()


def run(
    directory: Path, *, jobs: int, nacks: int, longest_s: float, seconds: float, every_s: float = 2.0, seed: int = 7
) -> History:
    """The history of one run on a gateway with two workers and the embedded broker."""
    gateway = Running(directory / "data", "--workers", "2", "--log-level", "warning")
    work = Run(gateway, jobs=jobs, nacks=nacks, longest_s=longest_s, seed=seed)
    try:
        with ThreadPoolExecutor(6) as threads:
            tasks = [threads.submit(work.consume) for _ in range(4)]
            tasks.append(threads.submit(work.produce, seconds * 0.6))
            try:
                work.kill(seconds, every_s)
                work.produced.wait(60)
                work.finish()
            finally:
                work.over.set()
            for task in tasks:
                task.result(60)
    finally:
        gateway.kill()
    return work.history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--nacks", type=int, default=200)
    parser.add_argument("--longest", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        history = run(
            Path(directory),
            jobs=options.jobs,
            nacks=options.nacks,
            longest_s=options.longest,
            seconds=options.seconds,
            seed=options.seed,
        )
    late = history.late_s
    print(f"{len(history.due)} jobs stored, {len(history.again)} nacked with a delay, {history.kills} kills")
    print(f"early {len(history.early)}, lost {len(history.lost)}, twice {history.twice}")
    print(f"{history.copies} of those twice after the ack, of copies that interrupted moves left")
    print(f"left at the end: {history.left[0]} on holding queues, {history.left[1]} on the queue")
    print(f"late: p50 {percentile(late, 50) * 1000:.0f} ms, p99 {percentile(late, 99) * 1000:.0f} ms")
    print(f"early: {history.early[:10]}; lost: {history.lost[:10]}; set aside: {sorted(history.set_aside)}")
    for job in history.early[:10]:
        print(f"{job}: {history.due[job]}, {history.again.get(job)}, {history.nacked[job]}, {history.came[job]}")


if __name__ == "__main__":
    main()
