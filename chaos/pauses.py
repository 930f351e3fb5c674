"""An operator, a process of its own: pauses one queue after the other for a few seconds. It is never killed.

Writes a pause to the ledger if all servers have stored it: if one was away, a gateway that reaches only that server may
not know of the pause.

A request without an answer may be carried out later: it lies in the socket of a worker that is frozen, and a gateway
carries out what it reads even if the client has gone. The worker begins when it is thawed (the schedule freezes for up
to LONGEST_FREEZE_S, possibly twice in a row), reads the control state up to twice (REFRESH_S each), and only then
writes that the pause has ended: later than a pause that was begun in the meantime, which it ends. What servers store
after that has an older time and changes nothing. So once the end of a pause had no answer, the operator does not trust
a time: before it ends a later pause of that queue it asks for the pause again, and the answer says since when the queue
is paused. A pause that is still the same one was in place until then, and counts. Only another one does not.
"""

from __future__ import annotations

import time

from chaos.client import READ, Client, Role, role
from chaos.ledger import NO_ANSWER, NOT_SENT, PauseEvent
from tests.lab.http import HttpAnswer

OPERATORS = 2
"""Each pauses queues of its own: the end of one's pause would be the end of the other's."""
RESUME_S = 30.0
"""How long the end of a pause is tried after the run."""


class Operator(Client):
    """Pauses queues until calm."""

    def __init__(self, role: Role) -> None:
        super().__init__(role)
        self._doubtful: set[str] = set()
        """The paths of pauses whose end had no answer once."""

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
        counts = _everywhere(answer) and (path not in self._doubtful or self._is_same(path, answer))
        self._resume(path)
        if counts:
            self.ledger.write(PauseEvent(t=began, end=ended, queue=queue))

    def _is_same(self, path: str, begun: HttpAnswer) -> bool:
        """Whether the pause that this answer has begun is in place now."""
        again = self.ask(self._any(), "PUT", path, {"reason": "chaos"})
        return _everywhere(again) and again.json()["since"] == begun.json()["since"]

    def _resume(self, path: str) -> None:
        while time.monotonic() < self.role.calm_at + RESUME_S:
            answer = self.ask(self._any(), "DELETE", path)
            if answer.status == 200:
                return
            if answer.status == NO_ANSWER:
                self._doubtful.add(path)
            time.sleep(0.05)
        self.odd(f"{path} could not be ended")

    def _any(self) -> int:
        return self.chance.randrange(len(self.replicas))

    def _sleep(self, seconds: float) -> None:
        """Not beyond the beginning of calm."""
        time.sleep(max(0.0, min(seconds, self.role.calm_at - time.monotonic())))


def _everywhere(answer: HttpAnswer) -> bool:
    """Whether all servers have stored the pause."""
    return answer.status == 200 and "queue-coverage" not in answer.headers


if __name__ == "__main__":
    Operator(role("chaos.pauses")).run()
