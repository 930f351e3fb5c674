"""A consumer that takes many jobs under one lease, and settles them together or each in a way of its own.

To the checker each job of a batch has a lease of its own, `LEASE.n`, and a poll of its own.
"""

from __future__ import annotations

import time
from typing import Any

from chaos.client import Consumer, monotonic, poll_path, role
from chaos.ledger import NO_ANSWER, NOT_SENT, DeliveryEvent
from tests.lab.http import HttpAnswer

VERBS = {"ack": 60, "nack-head": 10, "nack-tail": 12, "nack-delay": 8, "reject": 5}
"""What becomes of a job, by weight."""


class BatchConsumer(Consumer):
    """Takes batches instead of single jobs."""

    def run(self) -> None:
        ways = [(5, self._settle_each), (3, self._ack_all), (2, self._ack_in_two), (1, lambda *_: None)]
        while True:
            replica = self.chance.randrange(len(self.replicas))
            if not self.calm and self.chance.random() < 0.05:
                self._leave(replica)
                continue
            lease, jobs = self._take_batch(replica)
            if not jobs:
                continue
            if not self.calm and self.chance.random() < 0.1:
                time.sleep(self.chance.uniform(0.0, 1.5))
            way = self._ack_all if self.calm else self.chance.choices(*zip(*[(w, n) for n, w in ways], strict=True))[0]
            way(lease, jobs)

    def _take_batch(self, replica: int) -> tuple[str, list[DeliveryEvent]]:
        lease_s = 10.0 if self.calm else round(self.chance.uniform(1.5, 5.0), 2)
        queue, most = self._choose()[:1], self.chance.choice([2, 5, 20])
        slots = [self._poll(queue) for _ in range(most)]
        timeout_s = self.chance.choice([0, 0.3, 1.5])
        answer = self.ask(replica, "GET", f"{poll_path(queue)}timeout={timeout_s}&lease={lease_s}&max={most}")
        if answer.status == NO_ANSWER:
            return "", []
        found: list[dict[str, Any]] = []
        lease: dict[str, Any] = {}
        if answer.status == 200:
            lease, found = answer.json()["lease"], answer.json()["jobs"]
        elif answer.status not in (NOT_SENT, 204, 503):
            self.odd(f"next?max= was answered {answer.status} {answer.body[:300]!r}")
        for place, slot in enumerate(slots):
            self._polled(slot, 200 if place < len(found) else 204)
        jobs = [
            self._delivered(job | {"lease": lease | {"id": f"{lease['id']}.{place}"}}, queue, replica, lease_s, place)
            for place, job in enumerate(found)
        ]
        return lease.get("id", ""), jobs

    def _leave(self, replica: int) -> None:
        """Asks for a batch and closes the connection before an answer was read."""
        queue, most = self._choose()[:1], self.chance.choice([2, 5, 20])
        for _ in range(most):
            self._poll(queue)
        self._ask_and_leave(replica, f"{poll_path(queue)}timeout=5&lease=2&max={most}")

    def _settle_each(self, lease: str, jobs: list[DeliveryEvent]) -> None:
        verbs = self.chance.choices(list(VERBS), list(VERBS.values()), k=len(jobs))
        delays = [round(self.chance.uniform(0.1, 2.0), 3) if verb == "nack-delay" else 0.0 for verb in verbs]
        replica = self._anywhere(jobs)
        for job, verb, delay in zip(jobs, verbs, delays, strict=True):
            self._write_settle(job, verb, replica, 0, delay)
        nacks = [
            {"job": place, "position": "head" if verb == "nack-head" else "tail"} | ({"delay": delay} if delay else {})
            for place, (verb, delay) in enumerate(zip(verbs, delays, strict=True))
            if verb.startswith("nack")
        ]
        rejects = [{"job": place, "reason": "chaos"} for place, verb in enumerate(verbs) if verb == "reject"]
        body = {"nacks": nacks, "rejects": rejects, "rest": "ack"}
        answer = self.ask(replica, "POST", f"/leases/{lease}/settle", body)
        results = answer.json()["results"] if answer.status in (200, 207) else [{"status": answer.status}] * len(jobs)
        for job, result in zip(jobs, results, strict=True):
            due = monotonic(result["due_at"]) if result.get("position") == "tail" and "due_at" in result else 0.0
            self._write_answer(job, result["status"], result.get("code", answer.code), due=due)

    def _ack_all(self, lease: str, jobs: list[DeliveryEvent]) -> None:
        self._ack_some(lease, jobs, None)

    def _ack_in_two(self, lease: str, jobs: list[DeliveryEvent]) -> None:
        first = self.chance.randrange(1, len(jobs) + 1)
        # The second ack is of every job that is not settled yet, so it is sent only if the first one was carried out.
        if self._ack_some(lease, jobs[:first], {"upto": first}) and first < len(jobs):
            self._ack_some(lease, jobs[first:], None)

    def _ack_some(self, lease: str, jobs: list[DeliveryEvent], body: object) -> bool:
        """Whether all are acked. If it fails for one job, it may have succeeded for others: then nothing is known."""
        replica = self._anywhere(jobs)
        for job in jobs:
            self._write_settle(job, "ack", replica)
        answer: HttpAnswer = self.ask(replica, "POST", f"/leases/{lease}/ack", body)
        status = answer.status if answer.status in (NOT_SENT, 204) else NO_ANSWER
        for job in jobs:
            self._write_answer(job, status, "")
        return status == 204

    def _anywhere(self, jobs: list[DeliveryEvent]) -> int:
        everywhere = "cluster" in self.role.offers and self.chance.random() < 0.5
        return self.chance.randrange(len(self.replicas)) if everywhere else jobs[0].replica


if __name__ == "__main__":
    BatchConsumer(role("chaos.batching")).run()
