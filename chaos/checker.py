"""Judges a run by its ledger: what was lost, what was repeated, and by which event each duplicate is explained. Pure.

1. A job whose enqueue answered 201 is gone only by an ack (one that answered 204, or whose outcome nobody knows);
   otherwise it lies on a queue when all is over. (LOST, VANISHED)
2. After a lease whose ack answered 204 no later lease holds the job, but for one further copy an event that can make
   one: an unknown enqueue outcome, an interrupted move, an expired lease. One event explains one copy. (REPEATED)
3. A job is under a second lease only when something ended the first: a settlement, its deadline, a killed or frozen
   process. (UNEXPLAINED)
4. A job that nobody said might be stored is never delivered. (REFUSED)
5. No answer is outside of what the contract allows a well-behaved client to see. (ODD)

"Later" is by the instants at which the gateway opened the leases, not by when a client, perhaps frozen, read of it: a
lease that was acked held the job from its opening to the ack's proof.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from chaos.ledger import (
    NO_ANSWER,
    Delivery,
    Event,
    Left,
    Odd,
    Poll,
    PollAnswer,
    Put,
    PutAnswer,
    Settle,
    SettleAnswer,
    Stroke,
)

CLOCK_S = 0.003
"""Lease instants are cut to a millisecond, and read by another clock than everything else."""
PARKED_S = 10.0
"""A poll may have stood so long before a job came: its own time, and that of a freeze."""
STROKE_S = 1.0
"""A blow may show so long after it: what was on its way arrives, the dead are noticed."""


class Kind(Enum):
    """What a run must not show."""

    LOST = "lost, never delivered"
    VANISHED = "lost after a delivery"
    REPEATED = "delivered after its ack's 204"
    UNEXPLAINED = "under two leases at once"
    REFUSED = "delivered though refused"
    ODD = "an answer that must not be"


class Copy(Enum):
    """What can make a second copy of a job."""

    ENQUEUE = "unknown enqueue outcome"
    MOVE = "interrupted move"
    EXPIRY = "expired lease"
    UNSEEN = "expired lease of a poll whose answer nobody read"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise and the job, or client, it was broken to."""

    kind: Kind
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run amounts to. redelivered, repeated: by what explains them."""

    figures: dict[str, int]
    redelivered: dict[str, int]
    repeated: dict[str, int]
    violations: list[Violation]


@dataclass(slots=True)
class _Asked:
    """A settlement and its answer, if there was one."""

    settle: Settle
    answer: SettleAnswer | None = None

    @property
    def status(self) -> int:
        return self.answer.status if self.answer else NO_ANSWER

    @property
    def unknown(self) -> bool:
        """Whether it may or may not have been carried out."""
        return self.status in (NO_ANSWER, 500, 502) or bool(self.answer and self.answer.code == "outcome-unknown")


@dataclass(slots=True)
class _Lease:
    delivery: Delivery
    asked: list[_Asked] = field(default_factory=list)

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
class _Job:
    """All that is known of one job."""

    token: str
    puts: dict[int, tuple[Put, PutAnswer | None]] = field(default_factory=dict)
    leases: list[_Lease] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    @property
    def stored(self) -> bool:
        return any(answer is not None and answer.status == 201 for _, answer in self.puts.values())

    @property
    def unknown_puts(self) -> list[Put]:
        return [put for put, answer in self.puts.values() if answer is None or answer.status in (NO_ANSWER, 500, 502)]


class _Strokes:
    def __init__(self, strokes: Iterable[Stroke]) -> None:
        self._strokes = [stroke for stroke in strokes if stroke.action != "missed"]

    def between(self, start: float, end: float, who: str) -> Stroke | None:
        """A blow that fell, or lasted, in that time, to a server, to anything of a gateway, or to that client."""
        for stroke in self._strokes:
            touches = not stroke.target.startswith(("producer", "consumer")) or stroke.target == who
            if touches and stroke.t <= end and stroke.end + STROKE_S >= start:
                return stroke
        return None

    def thawed_late(self, lease: Delivery) -> bool:
        """Whether its worker was frozen with the job in hand while a server was killed, which put the job back."""
        for freeze in self._strokes:
            place = freeze.target.partition("-")[2].partition(".")[0]
            frozen = freeze.action == "freeze" and freeze.target.startswith(("worker", "replica"))
            if frozen and place == str(lease.replica) and abs(freeze.end - lease.opened) < STROKE_S:
                for kill in self._strokes:
                    if kill.target.startswith("server") and freeze.t - STROKE_S < kill.t < freeze.end:
                        return True
        return False


class _Unseen:
    """Polls whose answer nobody read: each may have left a lease that expired, and with it one copy of one job."""

    def __init__(self, events: Iterable[Event]) -> None:
        polls = {(event.who, event.life, event.number): event for event in events if isinstance(event, Poll)}
        for event in events:
            if isinstance(event, PollAnswer):
                polls.pop((event.who, event.life, event.number), None)
        self._polls = sorted(polls.values(), key=lambda poll: -poll.t)

    def __len__(self) -> int:
        return len(self._polls)

    def take(self, job: _Job, before: float) -> bool:
        """Finds the latest of them that can have held the job before that instant; it explains nothing else then.

        What a move copied says so by its attempt.
        """
        queues = {lease.delivery.queue for lease in job.leases}
        since = min((put.t for put, _ in job.puts.values()), default=0.0) - PARKED_S
        if not any(lease.delivery.attempt > 1 for lease in job.leases):
            return False
        for poll in self._polls:
            if poll.queue in queues and since < poll.t < before:
                self._polls.remove(poll)
                return True
        return False


def check(events: Iterable[Event]) -> Verdict:
    """The verdict over a whole run."""
    events = list(events)
    jobs, odd = _jobs(events)
    strokes = _Strokes(event for event in events if isinstance(event, Stroke))
    unseen = _Unseen(events)
    redelivered: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    violations = [*odd, *_odd_answers(jobs.values())]
    for job in jobs.values():
        violations += _missing(job)
        violations += _repeats(job, strokes, unseen, repeated)
        violations += _overlaps(job, strokes, unseen, redelivered)
    return Verdict(_figures(events, jobs), dict(redelivered), dict(repeated), violations)


def _jobs(events: list[Event]) -> tuple[dict[str, _Job], list[Violation]]:
    jobs: dict[str, _Job] = {}
    leases: dict[str, _Lease] = {}
    odd: list[Violation] = []
    for event in events:
        match event:
            case Put():
                jobs.setdefault(event.token, _Job(event.token)).puts[event.number] = (event, None)
            case PutAnswer():
                job = jobs[event.token]
                job.puts[event.number] = (job.puts[event.number][0], event)
            case Delivery():
                lease = leases[event.lease] = _Lease(event)
                jobs.setdefault(event.token, _Job(event.token)).leases.append(lease)
            case Settle():
                leases[event.lease].asked.append(_Asked(event))
            case SettleAnswer():
                next(each for each in leases[event.lease].asked if each.settle.number == event.number).answer = event
            case Left():
                jobs.setdefault(event.token, _Job(event.token)).left.append(event)
            case Odd():
                odd.append(Violation(Kind.ODD, event.who, event.what))
    for job in jobs.values():
        job.leases.sort(key=lambda lease: lease.delivery.opened)
    return jobs, odd


def _missing(job: _Job) -> Iterator[Violation]:
    found = job.leases or job.left
    if found and not job.stored and not job.unknown_puts:
        yield Violation(Kind.REFUSED, job.token, f"{len(job.puts)} enqueues, each of them refused")
    if job.stored and not job.left and not any(lease.perhaps_acked for lease in job.leases):
        kind = Kind.VANISHED if job.leases else Kind.LOST
        yield Violation(kind, job.token, _told(job))


def _repeats(job: _Job, strokes: _Strokes, unseen: _Unseen, repeated: Counter[str]) -> Iterator[Violation]:
    """Rule 2. Counts what explains the repeats that are explained."""
    if not any(lease.acked for lease in job.leases):
        return
    copies = sorted(_copies(job, strokes), key=lambda copy: copy[0])
    found: list[Copy] = []
    holders = [(lease.delivery.opened, lease) for lease in job.leases]
    ends: list[tuple[float, _Lease | None]] = [*holders, *((left.t, None) for left in job.left)]
    for opened, lease in ends:
        acked = [each for each in job.leases if each.acked and each.delivery.opened + CLOCK_S < opened]
        made = [cause for at, cause in copies if at <= opened + CLOCK_S] + found
        if not acked:
            continue
        if len(acked) > len(made) and unseen.take(job, acked[-1].delivery.opened):
            found.append(Copy.UNSEEN)
            made.append(Copy.UNSEEN)
        if len(acked) <= len(made):
            repeated[made[len(acked) - 1].value] += 1
        elif lease is not None and not lease.acked and strokes.thawed_late(lease.delivery):
            repeated["taken before the ack by a worker that was frozen"] += 1
        else:
            yield Violation(Kind.REPEATED, job.token, _told(job))


def _copies(job: _Job, strokes: _Strokes) -> Iterator[tuple[float, Copy]]:
    """Every event that may have made one more copy of the job, and when."""
    unknown = sorted(put.t for put in job.unknown_puts)
    for at in unknown if job.stored else unknown[1:]:
        yield at, Copy.ENQUEUE
    for lease in job.leases:
        for each in lease.asked:
            if each.settle.verb in ("nack-tail", "nack-delay", "reject"):
                at = each.settle.t
                over = (each.answer.t if each.answer else at) + each.settle.delay
                if each.status not in (200, 204) or strokes.between(at, over + STROKE_S, ""):
                    yield at, Copy.MOVE
        if not lease.settled:
            yield lease.deadline, Copy.EXPIRY


def _overlaps(job: _Job, strokes: _Strokes, unseen: _Unseen, redelivered: Counter[str]) -> Iterator[Violation]:
    """Rule 3, for leases that were not acked: those are rule 2's."""
    copies = list(_copies(job, strokes))
    for earlier, later in zip(job.leases, job.leases[1:], strict=False):
        if earlier.acked:
            continue
        opened = later.delivery.opened
        asked = [
            each.settle.verb
            for each in earlier.asked
            if each.settle.verb != "extend" and each.settle.t < opened + CLOCK_S
        ]
        stroke = strokes.between(earlier.delivery.opened, opened, earlier.delivery.who)
        if asked:
            redelivered[f"after {asked[0]}"] += 1
        elif earlier.deadline <= opened + CLOCK_S:
            redelivered["lease expired"] += 1
        elif stroke is not None:
            redelivered[f"{stroke.action} of a {stroke.target.partition('-')[0]}"] += 1
        elif any(at <= opened for at, _ in copies) or unseen.take(job, earlier.delivery.opened):
            redelivered["another copy"] += 1
        else:
            yield Violation(Kind.UNEXPLAINED, job.token, _told(job))


def _odd_answers(jobs: Iterable[_Job]) -> Iterator[Violation]:
    """Rule 5."""
    for job in jobs:
        for _, answer in job.puts.values():
            fine = answer is None or answer.status in (NO_ANSWER, 201, 502, 503)
            if answer is not None and not fine and answer.code != "idempotency-in-flight":
                yield Violation(Kind.ODD, job.token, f"an enqueue was answered {answer.status} {answer.code}")
        for lease in job.leases:
            for place, each in enumerate(lease.asked):
                allowed = {NO_ANSWER, 200, 204, 410, 502, 503} | ({409} if place else set())
                if each.status not in allowed:
                    code = each.answer.code if each.answer else ""
                    yield Violation(Kind.ODD, job.token, f"{each.settle.verb} was answered {each.status} {code}")


def _figures(events: list[Event], jobs: dict[str, _Job]) -> dict[str, int]:
    leases = [lease for job in jobs.values() for lease in job.leases]
    polls = sum(isinstance(event, Poll) for event in events)
    strokes = [event for event in events if isinstance(event, Stroke)]
    figures = {
        "jobs offered": sum(bool(job.puts) for job in jobs.values()),
        "jobs answered 201": sum(job.stored for job in jobs.values()),
        "enqueues of unknown outcome": sum(len(job.unknown_puts) for job in jobs.values()),
        "polls": polls,
        "polls whose answer nobody read": len(_Unseen(events)),
        "deliveries": len(leases),
        "acks answered 204": sum(lease.acked for lease in leases),
        "settlements of unknown outcome": sum(each.unknown for lease in leases for each in lease.asked),
        "left on a queue at the end": sum(len(job.left) for job in jobs.values()),
    }
    for action in ("kill", "kill-parent", "freeze", "missed", "ended"):
        for kind in ("producer", "consumer", "worker", "replica", "server"):
            count = sum(stroke.action == action and stroke.target.startswith(kind) for stroke in strokes)
            if count:
                figures[f"{action} {kind}"] = count
    return figures


def _told(job: _Job) -> str:
    """The job's story, for people."""
    story = [(put.t, f"enqueue: {answer.status if answer else 'unanswered'}") for put, answer in job.puts.values()]
    story += [(left.t, f"left on {left.queue} of server {left.server}") for left in job.left]
    for lease in job.leases:
        given = lease.delivery
        name = given.lease[-6:]
        what = f"{given.who} has lease {name} at replica {given.replica}, attempt {given.attempt}"
        story.append((given.opened, what))
        for each in lease.asked:
            code = each.answer.code if each.answer else ""
            story.append((each.settle.t, f"{each.settle.verb} {name}: {each.status} {code}".strip()))
    story.sort()
    start = story[0][0] if story else 0.0
    return "; ".join(f"{at - start:+.3f} {what}" for at, what in story)
