"""What a ledger says, job by job: enqueues, leases with what was asked of them, what was left, and the faults.

Pure. Tells what happened and what may have happened; what is allowed is the checker's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from chaos.ledger import (
    NO_ANSWER,
    DeliveryEvent,
    Event,
    Fault,
    Left,
    PauseEvent,
    PollAnswer,
    PollEvent,
    PutAnswer,
    PutEvent,
    SettleAnswer,
    SettleEvent,
)

PARKED_S = 10.0
"""A poll may have stood so long before a job came: its own time, and that of a freeze."""
PAUSE_S = 2.0
"""From so long after the answer on, nothing of a paused queue is delivered."""
EFFECT_S = 1.0
"""A fault may show so long after it: what was on its way arrives, the dead are noticed."""


@dataclass(slots=True)
class AskedSettlement:
    """A settlement and its answer, if there was one."""

    settle: SettleEvent
    answer: SettleAnswer | None = None

    @property
    def status(self) -> int:
        return self.answer.status if self.answer else NO_ANSWER

    @property
    def due(self) -> float:
        """When a job that was nacked with a delay comes back; 0 if that is not certain."""
        return self.answer.due if self.answer else 0.0

    @property
    def unknown(self) -> bool:
        """Whether it may or may not have been carried out."""
        return self.status in (NO_ANSWER, 500, 502) or bool(self.answer and self.answer.code == "outcome-unknown")


@dataclass(slots=True)
class LeaseHistory:
    """A delivery and all that was asked of its lease."""

    delivery: DeliveryEvent
    asked: list[AskedSettlement] = field(default_factory=list)

    @property
    def opened(self) -> float:
        """When it was opened, at the latest."""
        return max(self.delivery.opened, self.delivery.opened_by)

    @property
    def acked(self) -> bool:
        return any(each.settle.verb == "ack" and each.status == 204 for each in self.asked)

    @property
    def settled(self) -> bool:
        return any(each.settle.verb != "extend" and each.status in (200, 204) for each in self.asked)

    @property
    def perhaps_acked(self) -> bool:
        return any(each.settle.verb == "ack" and (each.status == 204 or each.unknown) for each in self.asked)

    @property
    def deadline(self) -> float:
        """The earliest instant at which it may have expired."""
        ends = [each.answer.expires for each in self.asked if each.answer and each.answer.expires]
        unsure = any(each.settle.verb == "extend" and each.unknown for each in self.asked)
        return self.delivery.expires if unsure or not ends else ends[-1]


@dataclass(slots=True)
class JobHistory:
    """All that is known of one job."""

    token: str
    puts: dict[int, tuple[PutEvent, PutAnswer | None]] = field(default_factory=dict)
    leases: list[LeaseHistory] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    @property
    def stored(self) -> bool:
        return any(answer is not None and answer.status == 201 for _, answer in self.puts.values())

    @property
    def unknown_puts(self) -> list[PutEvent]:
        return [put for put, answer in self.puts.values() if answer is None or answer.status in (NO_ANSWER, 500, 502)]

    @property
    def due(self) -> float:
        """The earliest instant at which an enqueue that may have been stored allows it to be delivered."""
        stored = [put for put, answer in self.puts.values() if answer is not None and answer.status == 201]
        return min((put.t + put.delay for put in [*stored, *self.unknown_puts]), default=0.0)


class Faults:
    """The faults of a run; those that missed were none."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults = [fault for fault in faults if fault.action != "missed"]

    def between(self, start: float, end: float, who: str) -> Fault | None:
        """A fault that fell, or lasted, in that time, to a server, to anything of a gateway, or to that client."""
        return next(iter(self.all_between(start, end, who)), None)

    def all_between(self, start: float, end: float, who: str) -> list[Fault]:
        """Every such fault."""
        return [
            fault
            for fault in self._faults
            if (not fault.target.startswith(("producer", "consumer")) or fault.target == who)
            and fault.t <= end
            and fault.end + EFFECT_S >= start
        ]

    def thawed_late(self, lease: DeliveryEvent) -> bool:
        """Whether its worker was frozen with the job in hand while a server was killed, which put the job back."""
        for freeze in self._faults:
            place = freeze.target.partition("-")[2].partition(".")[0]
            frozen = freeze.action == "freeze" and freeze.target.startswith(("worker", "replica"))
            if frozen and place == str(lease.replica) and abs(freeze.end - lease.opened) < EFFECT_S:
                for kill in self._faults:
                    if kill.target.startswith(("server", "broker")) and freeze.t - EFFECT_S < kill.t < freeze.end:
                        return True
        return False


class Unseen:
    """Polls whose answer was not read: each may have left a lease that expired, and with it one copy of one job."""

    def __init__(self, events: Iterable[Event]) -> None:
        polls = {(event.who, event.life, event.number): event for event in events if isinstance(event, PollEvent)}
        for event in events:
            if isinstance(event, PollAnswer):
                polls.pop((event.who, event.life, event.number), None)
        self._polls = sorted(polls.values(), key=lambda poll: -poll.t)

    def __len__(self) -> int:
        return len(self._polls)

    def take(self, job: JobHistory, before: float) -> bool:
        """Finds the latest of them that can have held the job before that instant; it explains nothing else then.

        What a move copied says so by its attempt.
        """
        queues = {lease.delivery.queue for lease in job.leases}
        since = min((put.t for put, _ in job.puts.values()), default=0.0) - PARKED_S
        if not any(lease.delivery.attempt > 1 for lease in job.leases):
            return False
        for poll in self._polls:
            if not queues.isdisjoint(poll.queue.split()) and since < poll.t < before:
                self._polls.remove(poll)
                return True
        return False


def jobs_of(events: Iterable[Event]) -> dict[str, JobHistory]:
    """Every job by its token, its leases in the order in which they were opened."""
    jobs: dict[str, JobHistory] = {}
    leases: dict[str, LeaseHistory] = {}
    for event in events:
        match event:
            case PutEvent():
                jobs.setdefault(event.token, JobHistory(event.token)).puts[event.number] = (event, None)
            case PutAnswer():
                job = jobs[event.token]
                job.puts[event.number] = (job.puts[event.number][0], event)
            case DeliveryEvent():
                lease = leases[event.lease] = LeaseHistory(event)
                jobs.setdefault(event.token, JobHistory(event.token)).leases.append(lease)
            case SettleEvent():
                leases[event.lease].asked.append(AskedSettlement(event))
            case SettleAnswer():
                next(each for each in leases[event.lease].asked if each.settle.number == event.number).answer = event
            case Left():
                jobs.setdefault(event.token, JobHistory(event.token)).left.append(event)
    for job in jobs.values():
        job.leases.sort(key=lambda lease: lease.opened)
    return jobs


class PausedTimes:
    """When each queue was paused."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._pauses = [event for event in events if isinstance(event, PauseEvent)]

    def __len__(self) -> int:
        return len(self._pauses)

    def covers(self, queue: str, at: float) -> bool:
        """Whether the queue had been paused for PAUSE_S then."""
        return any(each.queue == queue and each.t + PAUSE_S < at < each.end for each in self._pauses)


def told(job: JobHistory) -> str:
    """The job's history, for people."""
    history = [
        (put.t, f"enqueue{f' with delay {put.delay:g}' * bool(put.delay)}: {answer.status if answer else 'unanswered'}")
        for put, answer in job.puts.values()
    ]
    history += [(left.t, f"left on {left.queue} of server {left.server}") for left in job.left]
    for lease in job.leases:
        given = lease.delivery
        name = given.lease[-6:]
        what = f"{given.who} has lease {name} at replica {given.replica}, attempt {given.attempt}"
        history.append((given.opened, what))
        for each in lease.asked:
            code = each.answer.code if each.answer else ""
            history.append((each.settle.t, f"{each.settle.verb} {name}: {each.status} {code}".strip()))
    history.sort()
    start = history[0][0] if history else 0.0
    return "; ".join(f"{at - start:+.3f} {what}" for at, what in history)
