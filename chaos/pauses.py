"""An operator, a process of its own: pauses one queue after the other for a few seconds. It is never killed.

Writes a pause to the ledger if all servers have stored it: if one was away, a gateway that reaches only that server may
not know of the pause. Not if an end of an earlier pause of the queue was asked for shortly before and had no answer: a
gateway that was starting, or was frozen, may carry it out later.
"""

from __future__ import annotations

import time

from chaos.client import ANSWER_S, READ, Client, Role, role
from chaos.ledger import NO_ANSWER, NOT_SENT, PauseEvent

OPERATORS = 2
"""Each pauses queues of its own: the end of one's pause would be the end of the other's."""
LATE_S = 15.0
"""How long a request that was not answered in time may wait in a gateway that is starting."""
ENDED_S = 3.0
"""How long a worker that has closed the connection of a request may still carry it out."""
RESUME_S = 30.0
"""How long the end of a pause is tried after the run."""


class Operator(Client):
    """Pauses queues until calm."""

    def __init__(self, role: Role) -> None:
        super().__init__(role)
        self._certain_at: dict[str, float] = {}

    def run(self) -> None:
        own = READ[int(self.role.name.rpartition("-")[2]) :: OPERATORS]
        while not self.calm:
            self._pause(self.chance.choice(own))
            self._sleep(self.chance.uniform(0.0, 0.5))

    def _pause(self, queue: str) -> None:
        path = f"/queues/{queue}/pause"
        answer = self.ask(self._any(), "PUT", path, {"reason": "chaos"})
        began = time.monotonic()
        if answer.status not in (NO_ANSWER, NOT_SENT, 200, 404, 502, 503):
            self.odd(f"a pause was answered {answer.status} {answer.body[:300]!r}")
        if answer.status == 200:
            self._sleep(self.chance.uniform(2.2, 4.0))
        ended = time.monotonic()
        certain = began > self._certain_at.get(path, 0.0)
        self._resume(path)
        if answer.status == 200 and certain and "queue-coverage" not in answer.headers:
            self.ledger.write(PauseEvent(t=began, end=ended, queue=queue))

    def _resume(self, path: str) -> None:
        while time.monotonic() < self.role.calm_at + RESUME_S:
            began = time.monotonic()
            answer = self.ask(self._any(), "DELETE", path)
            if answer.status == 200:
                return
            if answer.status == NO_ANSWER:
                now = time.monotonic()
                self._certain_at[path] = now + (LATE_S if now - began > ANSWER_S / 2 else ENDED_S)
            time.sleep(0.05)
        self.odd(f"{path} could not be ended")

    def _any(self) -> int:
        return self.chance.randrange(len(self.replicas))

    def _sleep(self, seconds: float) -> None:
        """Not beyond the beginning of calm."""
        time.sleep(max(0.0, min(seconds, self.role.calm_at - time.monotonic())))


if __name__ == "__main__":
    Operator(role("chaos.pauses")).run()
