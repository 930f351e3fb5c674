"""Judges a run by its ledger: what was lost, what was repeated, and by which event each duplicate is explained. Pure.

1. A job whose enqueue answered 201 is gone only by an ack (one that answered 204, or one with an unknown outcome);
   otherwise it is on a queue at the end. (LOST, VANISHED)
2. After a lease whose ack answered 204 no later lease holds the job, except one further copy for each event that can
   make
   one: an unknown enqueue outcome, an interrupted move, an expired lease. One event explains one copy. (REPEATED)
3. A job is under a second lease only when something ended the first: a settlement, its deadline, a killed or frozen
   process. (UNEXPLAINED)
4. A job of which no answer said that it might be stored is never delivered. (REFUSED)
5. No answer is outside of what the contract allows a well-behaved client to see. (ODD)
6. A delayed job is under no lease before it is due: not before the delay of its enqueue is over, and not, as its next
   attempt, before the delay of a nack is over. (EARLY)
7. Two seconds after a queue was paused on all servers, no lease of one of its jobs is opened until the pause ends.
   (PAUSED)

"Later" is by the instants at which the gateway opened the leases, not by when a client, perhaps frozen, read of it: a
lease that was acked held the job from its opening to the ack's proof.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from chaos.history import EFFECT_S, Faults, JobHistory, LeaseHistory, PausedTimes, Unseen, jobs_of, told
from chaos.ledger import NO_ANSWER, NOT_SENT, Event, Fault, Odd, PollEvent

RESTART_S = 8.0
"""The supervisor waits up to 5 s before it starts a process again that is killed repeatedly. A start may take 3 s."""
CLOCK_S = 0.003
"""Lease instants are cut to a millisecond, and read by another clock than everything else."""


class Kind(Enum):
    """What a run must not show."""

    LOST = "lost, never delivered"
    VANISHED = "lost after a delivery"
    REPEATED = "delivered after its ack's 204"
    UNEXPLAINED = "under two leases at once"
    REFUSED = "delivered though refused"
    ODD = "an answer that must not be"
    EARLY = "delivered before it was due"
    PAUSED = "delivered while its queue was paused"


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
class RunVerdict:
    """What a run amounts to. redelivered, repeated: by what explains them."""

    figures: dict[str, int]
    redelivered: dict[str, int]
    repeated: dict[str, int]
    violations: list[Violation]


def check(events: Iterable[Event]) -> RunVerdict:
    """The verdict over a whole run."""
    events = list(events)
    jobs = jobs_of(events)
    odd = [Violation(Kind.ODD, event.who, event.what) for event in events if isinstance(event, Odd)]
    faults = Faults(event for event in events if isinstance(event, Fault))
    unseen, pauses = Unseen(events), PausedTimes(events)
    redelivered: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    violations = [*odd, *_odd_answers(jobs.values())]
    for job in jobs.values():
        violations += _missing(job)
        violations += _early(job, faults, unseen)
        violations += _paused(job, pauses)
        violations += _repeats(job, faults, unseen, repeated)
        violations += _overlaps(job, faults, unseen, redelivered)
    return RunVerdict(_figures(events, jobs), dict(redelivered), dict(repeated), violations)


def _missing(job: JobHistory) -> Iterator[Violation]:
    found = job.leases or job.left
    if found and not job.stored and not job.unknown_puts:
        yield Violation(Kind.REFUSED, job.token, f"{len(job.puts)} enqueues, each of them refused")
    if job.stored and not job.left and not any(lease.perhaps_acked for lease in job.leases):
        kind = Kind.VANISHED if job.leases else Kind.LOST
        yield Violation(kind, job.token, told(job))


def _repeats(job: JobHistory, faults: Faults, unseen: Unseen, repeated: Counter[str]) -> Iterator[Violation]:
    """Rule 2. Counts what explains the repeats that are explained."""
    if not any(lease.acked for lease in job.leases):
        return
    copies = sorted(_copies(job, faults), key=lambda copy: copy[0])
    found: list[Copy] = []
    holders = [(lease.opened, lease) for lease in job.leases]
    ends: list[tuple[float, LeaseHistory | None]] = [*holders, *((left.t, None) for left in job.left)]
    for opened, lease in ends:
        acked = [each for each in job.leases if each.acked and each.opened + CLOCK_S < opened]
        made = [cause for at, cause in copies if at <= opened + CLOCK_S] + found
        if not acked:
            continue
        if len(acked) > len(made) and unseen.take(job, acked[-1].opened):
            found.append(Copy.UNSEEN)
            made.append(Copy.UNSEEN)
        if len(acked) <= len(made):
            repeated[made[len(acked) - 1].value] += 1
        elif lease is not None and not lease.acked and faults.thawed_late(lease.delivery):
            repeated["taken before the ack by a worker that was frozen"] += 1
        else:
            yield Violation(Kind.REPEATED, job.token, told(job))


def _early(job: JobHistory, faults: Faults, unseen: Unseen) -> Iterator[Violation]:
    """Rule 6. Another copy of the job may come before the delay of a nack is over."""
    if job.leases and job.leases[0].opened + CLOCK_S < job.due:
        yield Violation(Kind.EARLY, job.token, told(job))
        return
    copies = list(_copies(job, faults))
    for earlier, later in zip(job.leases, job.leases[1:], strict=False):
        opened, due = later.opened, max((each.due for each in earlier.asked), default=0.0)
        if opened + CLOCK_S < due and later.delivery.attempt > earlier.delivery.attempt:
            nacked = next(each.settle.t for each in earlier.asked if each.due == due)
            if not any(at < nacked for at, _ in copies) and not unseen.take(job, opened):
                yield Violation(Kind.EARLY, job.token, told(job))


def _paused(job: JobHistory, pauses: PausedTimes) -> Iterator[Violation]:
    """Rule 7."""
    for lease in job.leases:
        if pauses.covers(lease.delivery.queue, lease.delivery.opened):
            yield Violation(Kind.PAUSED, job.token, f"{lease.delivery.queue}: {told(job)}")


def _copies(job: JobHistory, faults: Faults) -> Iterator[tuple[float, Copy]]:
    """Every event that may have made one more copy of the job, and when.

    A delayed job moves until it is due, and each fault may interrupt a move.
    """
    unknown = sorted(put.t for put in job.unknown_puts)
    for at in unknown if job.stored else unknown[1:]:
        yield at, Copy.ENQUEUE
    for put, answer in job.puts.values():
        if put.delay and (answer is None or answer.status != NOT_SENT):
            due = (answer.t if answer else put.t) + put.delay
            yield from ((put.t, Copy.MOVE) for _ in _interruptions(faults, put.t, due))
    for lease in job.leases:
        for each in lease.asked:
            if each.settle.verb in ("nack-tail", "nack-delay", "reject"):
                at = each.settle.t
                due = (each.answer.t if each.answer else at) + each.settle.delay
                hit = _interruptions(faults, at, due)
                if each.status not in (NOT_SENT, 200, 204) or hit:
                    yield at, Copy.MOVE
                if each.settle.delay:
                    yield from ((at, Copy.MOVE) for _ in hit[1:])
        if not lease.settled:
            yield lease.deadline, Copy.EXPIRY


def _interruptions(faults: Faults, begun: float, due: float) -> list[Fault]:
    """Every fault that may have interrupted a move between holding queues, the last of which is due at `due`.

    A fault makes the moves after it late, until the process is back. It may be killed again meanwhile.
    """
    late_s = RESTART_S if faults.between(begun, due + EFFECT_S, "") else EFFECT_S
    return faults.all_between(begun, due + late_s, "")


def _overlaps(job: JobHistory, faults: Faults, unseen: Unseen, redelivered: Counter[str]) -> Iterator[Violation]:
    """Rule 3, for leases that were not acked: those are rule 2's."""
    copies = list(_copies(job, faults))
    for earlier, later in zip(job.leases, job.leases[1:], strict=False):
        if earlier.acked:
            continue
        opened = later.opened
        asked = [
            each.settle.verb
            for each in earlier.asked
            if each.settle.verb != "extend" and each.status != NOT_SENT and each.settle.t < opened + CLOCK_S
        ]
        fault = faults.between(earlier.opened, opened, earlier.delivery.who)
        if asked:
            unconfirmed = " without a 204" if asked[0] == "ack" else ""
            redelivered[f"after {asked[0]}{unconfirmed}"] += 1
        elif earlier.deadline <= opened + CLOCK_S:
            redelivered["lease expired"] += 1
        elif fault is not None:
            redelivered[f"{fault.action} of a {fault.target.partition('-')[0]}"] += 1
        elif any(at <= opened for at, _ in copies) or unseen.take(job, earlier.opened):
            redelivered["another copy"] += 1
        else:
            yield Violation(Kind.UNEXPLAINED, job.token, told(job))


def _odd_answers(jobs: Iterable[JobHistory]) -> Iterator[Violation]:
    """Rule 5."""
    for job in jobs:
        for _, answer in job.puts.values():
            fine = answer is None or answer.status in (NO_ANSWER, NOT_SENT, 201, 502, 503)
            if answer is not None and not fine and answer.code != "idempotency-in-flight":
                yield Violation(Kind.ODD, job.token, f"an enqueue was answered {answer.status} {answer.code}")
        for lease in job.leases:
            for place, each in enumerate(lease.asked):
                allowed = {NO_ANSWER, NOT_SENT, 200, 204, 410, 502, 503} | ({409} if place else set())
                if each.status not in allowed:
                    code = each.answer.code if each.answer else ""
                    yield Violation(Kind.ODD, job.token, f"{each.settle.verb} was answered {each.status} {code}")


def _figures(events: list[Event], jobs: dict[str, JobHistory]) -> dict[str, int]:
    leases = [lease for job in jobs.values() for lease in job.leases]
    polls = sum(isinstance(event, PollEvent) for event in events)
    delayed = [put.delay for job in jobs.values() for put, _ in list(job.puts.values())[:1] if put.delay]
    faults = [event for event in events if isinstance(event, Fault)]
    figures = {
        "jobs offered": sum(bool(job.puts) for job in jobs.values()),
        "jobs answered 201": sum(job.stored for job in jobs.values()),
        "jobs with a delay": len(delayed),
        "nacks with a delay that were kept on holding queues": sum(
            bool(each.due) for lease in leases for each in lease.asked
        ),
        "pauses that every server had stored": len(PausedTimes(events)),
        "enqueues of unknown outcome": sum(len(job.unknown_puts) for job in jobs.values()),
        "polls": polls,
        "polls whose answer nobody read": len(Unseen(events)),
        "deliveries": len(leases),
        "acks answered 204": sum(lease.acked for lease in leases),
        "settlements of unknown outcome": sum(each.unknown for lease in leases for each in lease.asked),
        "left on a queue at the end": sum(len(job.left) for job in jobs.values()),
    }
    for action in ("kill", "kill-parent", "freeze", "fill", "missed", "ended"):
        for kind in ("producer", "consumer", "worker", "replica", "server", "broker"):
            count = sum(fault.action == action and fault.target.startswith(kind) for fault in faults)
            if count:
                figures[f"{action} {kind}"] = count
    return figures
