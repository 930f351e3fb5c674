"""The other tenant: jobs through enqueue, next and ack, each timed; leases that it holds; a poll that waits."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from bench.table import percentile
from tests.lab.http import HttpAnswer, HttpClient

PACE_S = 0.025
HELD = 5
LEASE_S = 3
WITHIN_S = 20.0


@dataclass(slots=True)
class WorkerFigures:
    """What a tenant saw. times_s: by call. faults: what must not happen, in words."""

    times_s: dict[str, list[float]] = field(
        default_factory=lambda: {"enqueue": [], "next": [], "ack": [], "waited": []}
    )
    jobs: int = 0
    faults: list[str] = field(default_factory=list)

    def p99_ms(self, call: str) -> float:
        return 1000 * percentile(sorted(self.times_s[call]), 99)

    def p50_ms(self, call: str) -> float:
        return 1000 * percentile(sorted(self.times_s[call]), 50)


class Tenant:
    """Works on its queues until `stop`."""

    def __init__(self, port: int, secret: str) -> None:
        self.figures = WorkerFigures()
        self._port = port
        self._headers = {"Authorization": f"Bearer {secret}"}
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[work]) for work in (self._flow, self._hold, self._wait)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> WorkerFigures:
        """Ends its work and returns what it saw."""
        self._ends.set()
        for thread in self._threads:
            thread.join()
        return self.figures

    def _run(self, work) -> None:
        http = HttpClient(self._port, WITHIN_S)
        try:
            work(http)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a fault)
            self.figures.faults.append(f"{work.__name__}: {error!r}")
        finally:
            http.close()

    def _ask(self, http: HttpClient, method: str, path: str, wanted: int, body: object = None) -> HttpAnswer:
        answer = http.ask(method, path, body, **self._headers)
        if answer.status != wanted:
            self.figures.faults.append(
                f"{method} {path.partition('?')[0][:30]}: {answer.status} {answer.code} {answer.body[:200]!r}"
            )
        return answer

    def _timed(  # noqa: PLR0917 (as _ask)
        self, call: str, http: HttpClient, method: str, path: str, wanted: int, body: object = None
    ) -> HttpAnswer:
        began = time.perf_counter()
        answer = self._ask(http, method, path, wanted, body)
        self.figures.times_s[call].append(time.perf_counter() - began)
        return answer

    def _flow(self, http: HttpClient) -> None:
        """A job is enqueued, taken and acked."""
        number = 0
        while not self._ends.is_set():
            due = time.monotonic() + PACE_S
            number += 1
            self._timed("enqueue", http, "POST", "/queues/flow/jobs", 201, {"number": number})
            job = self._timed("next", http, "GET", "/queues/flow/next?timeout=10", 200)
            if job.status == 200:
                if job.json()["data"] != {"number": number}:
                    self.figures.faults.append(f"another job than {number} came")
                self._timed("ack", http, "POST", f"{job.json()['lease']['url']}/ack", 204)
                self.figures.jobs += 1
            self._ends.wait(max(0.0, due - time.monotonic()))

    def _hold(self, http: HttpClient) -> None:
        """Leases of 3 s are extended each second; none expires."""
        leases = []
        for _ in range(HELD):
            self._ask(http, "POST", "/queues/held/jobs", 201, "x")
            job = self._ask(http, "GET", f"/queues/held/next?timeout=10&lease={LEASE_S}", 200)
            leases.append(job.json()["lease"]["url"])
        while not self._ends.wait(1):
            for lease in leases:
                self._ask(http, "POST", f"{lease}/extend", 200, {"lease": LEASE_S})
        for lease in leases:
            self._ask(http, "POST", f"{lease}/ack", 204)

    def _wait(self, http: HttpClient) -> None:
        """A poll waits, and is served soon after the job is there."""
        producer = HttpClient(self._port, WITHIN_S)
        while not self._ends.is_set():
            http.send("GET", "/queues/waited/next?timeout=10", **self._headers)
            self._ends.wait(0.2)
            began = time.perf_counter()
            self._ask(producer, "POST", "/queues/waited/jobs", 201, "x")
            job = http.answer()
            self.figures.times_s["waited"].append(time.perf_counter() - began)
            if job.status != 200:
                self.figures.faults.append(f"a poll: {job.status} {job.code}")
                continue
            self._ask(producer, "POST", f"{job.json()['lease']['url']}/ack", 204)
        producer.close()
