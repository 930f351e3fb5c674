"""One producer or consumer, a process of its own that may be killed or frozen at any instant. Told all by flags.

Writes to the ledger before it asks and after it was answered. What it does is drawn from its seed, so it covers all
ways of settling, and of going away.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from chaos.ledger import (
    NO_ANSWER,
    NOT_SENT,
    DeliveryEvent,
    EventFile,
    Odd,
    PollAnswer,
    PollEvent,
    PutAnswer,
    PutEvent,
    SettleAnswer,
    SettleEvent,
)
from tests.lab.http import HttpAnswer, HttpClient

SUBSCRIBED, CHILD = "orders", "audit"
"""A queue with a subscription, and the subscription: both get every job of the queue."""
QUEUES = ("mail", "thumbs", SUBSCRIBED)
READ = (*QUEUES, f"{SUBSCRIBED}+{CHILD}")
ANSWER_S = 8.0
"""How long a client waits for an answer before it gives up."""
REFUSED_PAUSE_S = 0.05
LONGEST_DELAY_S = 3.0
TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """The start message of a client. offers: settlements of this gateway beyond ack, extend and a plain nack.

    calm_at: monotonic; from then on producers stop, and consumers ack all they get. pause_s: between two jobs.
    """

    kind: str
    name: str
    life: int
    seed: int
    ports: tuple[int, ...]
    ledger: Path
    calm_at: float
    offers: frozenset[str] = field(default_factory=frozenset)
    pause_s: float = 0.03


class Client:
    """What producers and consumers share: their connections, their random choices, their file."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.chance = random.Random(f"{role.seed} {role.name} {role.life}")
        self.ledger = EventFile(role.ledger / f"{role.name}-{role.life}.jsonl")
        self.replicas = [HttpClient(port, ANSWER_S) for port in role.ports]

    @property
    def calm(self) -> bool:
        return time.monotonic() > self.role.calm_at

    def odd(self, what: str) -> None:
        self.ledger.write(Odd(t=time.monotonic(), who=self.role.name, what=what))

    def ask(self, replica: int, method: str, path: str, body: object = None, **headers: str) -> HttpAnswer:
        """Status NO_ANSWER or NOT_SENT if no answer came. Waits a moment after a refusal, so that no client spins."""
        try:
            answer = self.replicas[replica].ask(method, path, body, **headers)
        except ConnectionRefusedError:
            time.sleep(REFUSED_PAUSE_S)
            return HttpAnswer(NOT_SENT, {}, b"")
        except (OSError, ValueError):
            time.sleep(REFUSED_PAUSE_S)
            return HttpAnswer(NO_ANSWER, {}, b"")
        if answer.status == 503:
            time.sleep(REFUSED_PAUSE_S)
        return answer


class Producer(Client):
    """Enqueues jobs; tries again, with or without an Idempotency-Key, what it does not know to be stored."""

    def run(self) -> None:
        for number in itertools.count():
            if self.calm:
                return
            self._offer(f"{self.role.name}.{self.role.life}.{number}")
            time.sleep(self.chance.expovariate(1 / self.role.pause_s))

    def _offer(self, token: str) -> None:
        queue = self.chance.choice(QUEUES)
        keyed = "keys" in self.role.offers and self.chance.random() < 0.5
        replica = self.chance.randrange(len(self.replicas))
        body = {"token": token, "pad": pad(token)}
        delays = "delay" in self.role.offers and self.chance.random() < 0.2
        delay = round(self.chance.uniform(0.1, LONGEST_DELAY_S), 3) if delays else 0.0
        path = f"/queues/{queue}/jobs" + (f"?delay={delay}" if delay else "")
        for number in range(TRIES):
            for each in tokens(queue, token):
                self.ledger.write(
                    PutEvent(t=time.monotonic(), who=self.role.name, token=each, number=number, delay=delay)
                )
            key = {"Idempotency_Key": f'"{token}"'} if keyed else {}
            answer = self.ask(replica, "POST", path, body, **key)
            job = answer.json()["id"] if answer.status == 201 else ""
            for each in tokens(queue, token):
                self.ledger.write(
                    PutAnswer(
                        t=time.monotonic(), token=each, number=number, status=answer.status, code=answer.code, job=job
                    )
                )
            if answer.status == 201 or self.chance.random() < 0.3:
                return
            if not keyed:
                replica = self.chance.randrange(len(self.replicas))


class Consumer(Client):
    """Takes jobs under leases of all lengths and ends them in every way there is, or in none."""

    def __init__(self, role: Role) -> None:
        super().__init__(role)
        self._polls = itertools.count()
        self._to_ack: DeliveryEvent | None = None
        self._ways: list[tuple[float, str, Callable[[DeliveryEvent], None]]] = [
            (50, "", lambda job: self._settle(job, "ack")),
            (8, "", self._hold_and_ack),
            (6, "", self._extend_and_ack),
            (6, "", self._ack_twice),
            (8, "", lambda job: self._settle(job, "nack-head")),
            (10, "tail", lambda job: self._settle(job, "nack-tail")),
            (5, "tail", lambda job: self._settle(job, "nack-delay", delay=round(self.chance.uniform(0.1, 2.0), 3))),
            (4, "reject", lambda job: self._settle(job, "reject")),
            (6, "settle", lambda job: self._settle(job, "ack", among_many=True)),
            (10, "ack-next", self._ack_with_the_next),
            (4, "", lambda job: None),
        ]

    def run(self) -> None:
        while True:
            replica = self._to_ack.replica if self._to_ack else self.chance.randrange(len(self.replicas))
            if not self._to_ack and not self.calm and self.chance.random() < 0.05:
                self._vanish(replica)
                continue
            job = self._take(replica)
            if job is None:
                continue
            if self.calm:
                self._settle(job, "ack")
                continue
            self._end(job)

    def _end(self, job: DeliveryEvent) -> None:
        """Ends the lease in one of the ways, or in none."""
        ways = [(weight, way) for weight, needs, way in self._ways if not needs or needs in self.role.offers]
        self.chance.choices([way for _, way in ways], [weight for weight, _ in ways])[0](job)

    def _take(self, replica: int) -> DeliveryEvent | None:
        lease_s = 10.0 if self.calm else round(self.chance.choice([1.0, 1.5, self.chance.uniform(1.0, 5.0)]), 2)
        queues = self._choose()
        timeout_s = self.chance.choice([0, 0.3, 1.5])
        number = self._poll(queues)
        path = f"{poll_path(queues)}timeout={timeout_s}&lease={lease_s}"
        acked, self._to_ack = self._to_ack, None
        if acked is not None:
            self._write_settle(acked, "ack", replica)
            path += f"&ack={acked.lease}"
        answer = self.ask(replica, "GET", path)
        if acked is not None:
            done = answer.headers.get("lease-acked") == "true"
            self._write_answer(acked, 204 if done else answer.status, "" if done else answer.code)
            if not done and answer.status in (200, 204):
                self.odd(f"next with an ack was answered {answer.status}, and the lease is not acked")
            if not done and answer.status in (409, 410, 502):
                answer = HttpAnswer(204, {}, b"")  # the ack failed, and no job was taken
        if answer.status != NO_ANSWER:
            self._polled(number, answer.status)
        if answer.status in (NO_ANSWER, NOT_SENT, 204, 503):
            return None
        if answer.status != 200:
            self.odd(f"next was answered {answer.status} {answer.body[:300]!r}")
            return None
        return self._delivered(answer.json(), queues, replica, lease_s)

    def _delivered(
        self, job: dict[str, Any], queues: list[str], replica: int, lease_s: float, place: int = 0
    ) -> DeliveryEvent:
        """Writes down the job that has come. place: in its batch."""
        read_at = time.monotonic()
        token = str(job["data"]["token"])
        if job["data"].get("pad") != pad(token):
            self.odd(f"the data of {token} came back changed")
        queue = str(job["queue"])
        if queue not in queues:
            self.odd(f"a poll of {queues} got a job of {queue}")
        token = named(queue, token)
        expires = monotonic(job["lease"]["expires_at"])
        delivery = DeliveryEvent(
            t=read_at,
            who=self.role.name,
            token=token,
            job=job["id"],
            attempt=job["attempt"],
            lease=job["lease"]["id"],
            replica=replica,
            opened=expires - lease_s,
            expires=expires,
            queue=queue,
            opened_by=read_at if place else 0.0,
        )
        self.ledger.write(delivery)
        return delivery

    def _choose(self) -> list[str]:
        """The queues of the next poll; several where this gateway can wait for several."""
        many = "several" in self.role.offers and self.chance.random() < 0.4
        return self.chance.sample(READ, self.chance.choice([2, 3]) if many else 1)

    def _poll(self, queues: list[str]) -> int:
        """Writes down that a poll is sent; returns its number."""
        number, asked = next(self._polls), " ".join(queues)
        self.ledger.write(
            PollEvent(t=time.monotonic(), who=self.role.name, life=self.role.life, number=number, queue=asked)
        )
        return number

    def _polled(self, number: int, status: int) -> None:
        """Writes down that the answer to the poll was read whole."""
        role = self.role
        self.ledger.write(PollAnswer(t=time.monotonic(), who=role.name, life=role.life, number=number, status=status))

    def _vanish(self, replica: int) -> None:
        """Asks for a job and closes the connection before an answer was read."""
        queues = self._choose()
        self._poll(queues)
        self._ask_and_leave(replica, f"{poll_path(queues)}timeout=5&lease=2")

    def _ask_and_leave(self, replica: int, path: str) -> None:
        """Sends the request, and closes the connection at once or within 0.3 s."""
        connection = HttpClient(self.role.ports[replica], ANSWER_S)
        try:
            connection.send("GET", path)
            time.sleep(self.chance.choice([0.0, self.chance.uniform(0, 0.01), self.chance.uniform(0, 0.3)]))
        except OSError:
            time.sleep(REFUSED_PAUSE_S)
        finally:
            connection.close()

    def _hold_and_ack(self, job: DeliveryEvent) -> None:
        time.sleep(self.chance.uniform(0.0, 1.5))
        self._settle(job, "ack")

    def _extend_and_ack(self, job: DeliveryEvent) -> None:
        self._settle(job, "extend")
        self._settle(job, "ack", number=1)

    def _ack_twice(self, job: DeliveryEvent) -> None:
        self._settle(job, "ack")
        self._settle(job, "ack", number=1)

    def _ack_with_the_next(self, job: DeliveryEvent) -> None:
        self._to_ack = job

    def _settle(
        self, job: DeliveryEvent, verb: str, number: int = 0, delay: float = 0.0, *, among_many: bool = False
    ) -> None:
        """Where replicas forward to one another any of them is asked, else the one that gave the lease."""
        anywhere = "cluster" in self.role.offers and self.chance.random() < 0.5
        replica = self.chance.randrange(len(self.replicas)) if anywhere else job.replica
        self._write_settle(job, verb, replica, number, delay)
        if among_many:
            answer = self.ask(replica, "POST", "/leases/settle", {"acks": [job.lease]})
            result: dict[str, Any] = (
                answer.json()["results"][0] if answer.status in (200, 207) else {"status": answer.status}
            )
            self._write_answer(job, result["status"], result.get("code", answer.code), number)
            return
        path, body = self._order(verb, delay)
        answer = self.ask(replica, "POST", f"/leases/{job.lease}/{path}", body)
        told = answer.json() if answer.status == 200 else {}
        expires = monotonic(told["expires_at"]) if verb == "extend" and told else 0.0
        due = monotonic(told["due_at"]) if told.get("position") == "tail" and "due_at" in told else 0.0
        self._write_answer(job, answer.status, answer.code, number, expires=expires, due=due)

    def _write_settle(self, job: DeliveryEvent, verb: str, replica: int, number: int = 0, delay: float = 0.0) -> None:
        asked = SettleEvent(
            t=time.monotonic(),
            who=self.role.name,
            lease=job.lease,
            number=number,
            verb=verb,
            replica=replica,
            delay=delay,
        )
        self.ledger.write(asked)

    def _write_answer(
        self, job: DeliveryEvent, status: int, code: str, number: int = 0, *, expires: float = 0.0, due: float = 0.0
    ) -> None:
        told = SettleAnswer(
            t=time.monotonic(), lease=job.lease, number=number, status=status, code=code, expires=expires, due=due
        )
        self.ledger.write(told)

    def _order(self, verb: str, delay: float) -> tuple[str, dict[str, object] | None]:
        match verb:
            case "extend":
                return "extend", {"lease": 5.0}
            case "nack-head":
                return "nack", {"position": "head"} if "tail" in self.role.offers else None
            case "nack-tail":
                return "nack", {"position": "tail"}
            case "nack-delay":
                return "nack", {"position": "tail", "delay": delay}
            case "reject":
                return "reject", {"reason": "chaos"}
        return "ack", None


def poll_path(queues: list[str]) -> str:
    """The path of a poll and the beginning of its query."""
    if len(queues) == 1:
        return f"/queues/{queues[0]}/next?"
    return "/next?" + "".join(f"queue={each.replace('+', '%2B')}&" for each in queues)


def named(queue: str, token: str) -> str:
    """The token as it is judged: a copy on a subscription is a job of its own. queue: a name or Kestrel's key."""
    return f"{token}+{CHILD}" if "+" in queue or queue.endswith("__subdead") else token


def tokens(queue: str, token: str) -> list[str]:
    """The jobs that an enqueue stores."""
    return [token, named(f"{SUBSCRIBED}+{CHILD}", token)] if queue == SUBSCRIBED else [token]


def pad(token: str) -> str:
    """The content of a job after its token: of many sizes, and derived from the token."""
    return token * (1 + hash_of(token) % 20)


def hash_of(text: str) -> int:
    """The same in every process, which hash() is not."""
    return sum(place * ord(letter) for place, letter in enumerate(text, 1))


def monotonic(instant: str) -> float:
    """An RFC 3339 instant on this machine's monotonic clock."""
    return datetime.fromisoformat(instant).timestamp() - time.time() + time.monotonic()


def role(program: str) -> Role:
    """What the command line of a client says."""
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("kind", choices=["producer", "consumer", "operator"])
    parser.add_argument("--name", required=True)
    parser.add_argument("--life", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--ports", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--calm-at", type=float, required=True)
    parser.add_argument("--offers", default="")
    asked = vars(parser.parse_args())
    ports = tuple(int(port) for port in asked.pop("ports").split(","))
    offers = frozenset(filter(None, asked.pop("offers").split(",")))
    return Role(ports=ports, offers=offers, **asked)


def main() -> None:
    asked = role("chaos.client")
    (Producer if asked.kind == "producer" else Consumer)(asked).run()


if __name__ == "__main__":
    main()
