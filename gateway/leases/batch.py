"""A batch: one lease over several jobs, each of which has a lease of its own that no client sees. No I/O, no clock.

The id of a batch is that of the lease of its first job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.common.counted import counted
from gateway.errors import GatewayError, InvalidBody
from gateway.leases.lease import Disposition, Lease, LeaseRecord, Place, State, settlement_error

SHOWN: Final = (
    State.HELD,
    State.SETTLING,
    State.UNKNOWN,
    State.LOST,
    State.DROPPED,
    State.RETURNED,
    State.DRAINED,
    State.EXPIRED,
    State.REJECTED,
    State.NACKED,
    State.DELAYED,
    State.ACKED,
)
"""The state of a batch is the first of these that one of its jobs has."""
_RANKS: Final = {state: rank for rank, state in enumerate(SHOWN)}


@dataclass(slots=True, eq=False)
class BatchLease:
    """The leases of its jobs, in the order in which the consumer got them. open: how many of them have not ended.

    mixed: see LeaseRecord.
    """

    id: str
    leases: list[Lease] = field(default_factory=list)
    open: int = 0
    mixed: bool = False

    def held(self) -> list[Lease]:
        """Those that the consumer has."""
        return [lease for lease in self.leases if lease.state is State.HELD]

    def record(self) -> LeaseRecord:
        """What is known of the batch now."""
        return batch_record(self.id, [lease.record() for lease in self.leases], mixed=self.mixed)


def batch_record(batch_id: str, jobs: Sequence[LeaseRecord], *, mixed: bool = False) -> LeaseRecord:
    """The record of a batch: the state that says most, and what the first job with that state says of it.

    If a job is not where the request wanted it, the first such job is shown. attempt: the highest of all.
    """
    state = min((each.state for each in jobs), key=_RANKS.__getitem__)
    alike = [each for each in jobs if each.state is state]
    shown = next((each for each in alike if not each.as_asked), alike[0])
    attempt = max(each.attempt for each in jobs)
    return shown._replace(id=batch_id, job_id=None, attempt=attempt, jobs=tuple(jobs), mixed=mixed)


def ended_error(lease: Lease | LeaseRecord, wanted: State) -> GatewayError | None:
    """The error for a settlement `wanted` of a lease or a batch that has ended; None: it is already done.

    It is done for a batch if every job has ended so, except for those that a checkpoint acked before: then the request
    was for the others. If its jobs have ended in different ways, the error says how many in which.
    """
    if not isinstance(lease, LeaseRecord) or not lease.jobs:
        return settlement_error(lease.state, wanted)
    ways = Counter(each.state for each in lease.jobs)
    if len(ways) < 2:
        return settlement_error(lease.state, wanted)
    checkpoint = None if lease.mixed else State.ACKED
    errors = (settlement_error(state, wanted) for state in SHOWN if state in ways and state is not checkpoint)
    error = next(filter(None, errors), None)
    if error is not None:
        shown = ", ".join(f"{ways[state]} {state.value}" for state in reversed(SHOWN) if state in ways)
        error.detail = f"the jobs of the batch have ended in different ways: {shown}; GET the lease for each"
    return error


def first_jobs(lease: Lease | LeaseRecord, upto: int) -> Lease | LeaseRecord:
    """The lease, or what is known of the first `upto` jobs of a batch that has ended. Raises InvalidBody."""
    jobs = lease.jobs if isinstance(lease, LeaseRecord) else ()
    check_upto(upto, len(jobs) or 1)
    return batch_record(lease.id, jobs[:upto]) if jobs else lease


def check_upto(upto: int, jobs: int) -> None:
    """Raises InvalidBody if there are not so many jobs."""
    if upto > jobs:
        raise InvalidBody(f"upto: {upto} is above the number of jobs under the lease, {jobs}")


SETTLED: Final = frozenset({State.ACKED, State.NACKED, State.DELAYED, State.REJECTED})


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How the jobs of a batch are to end. named: by their index, from 0. rest: the others that are not settled."""

    named: Mapping[int, Disposition]
    rest: Disposition

    def of(self, index: int) -> Disposition:
        """How the job is to end."""
        return self.named.get(index, self.rest)

    def error(self, index: int, job: LeaseRecord) -> GatewayError | None:
        """Why the job has not ended as planned. A job of the rest that was settled before has."""
        if index not in self.named and job.state in SETTLED:
            return None
        return settlement_error(job.state, self.of(index).state)


def plan(settlement: Mapping[str, Any], job_ids: Sequence[str | None]) -> BatchPlan:
    """The plan in a valid `SettleBatchRequest` of the contract. job_ids: of the jobs of the batch.

    Raises InvalidBody: a job is not of the batch, is named twice, or its id is that of several jobs.
    """
    found: dict[int, Disposition] = {}
    for name, state in (("acks", State.ACKED), ("nacks", State.NACKED), ("rejects", State.REJECTED)):
        for place, each in enumerate(settlement.get(name, ())):
            where = f"{name}.{place}"
            index = _index(each, job_ids, where)
            if index in found:
                raise InvalidBody(f"{where}: job {index} is settled twice; name each job once")
            found[index] = _disposition(state, each)
    return BatchPlan(found, Disposition(State.ACKED if settlement["rest"] == "ack" else State.NACKED))


def _disposition(state: State, wanted: Mapping[str, Any]) -> Disposition:
    if state is State.REJECTED:
        return Disposition(state, Place.DEAD, wanted.get("reason", ""))
    asked = Place(wanted["position"]) if "position" in wanted else None
    delay_s = float(wanted["delay"]) if "delay" in wanted else None
    return Disposition(state, asked, wanted.get("reason", ""), delay_s)


def _index(wanted: Mapping[str, Any], job_ids: Sequence[str | None], where: str) -> int:
    """The place of the job in the batch, from 0."""
    if ("job" in wanted) == ("id" in wanted):
        raise InvalidBody(f"{where}: name the job by either job, its index from 0, or id")
    if "job" in wanted:
        index = int(wanted["job"])
        if index >= len(job_ids):
            raise InvalidBody(f"{where}.job: {index} is above the last index of the batch, {len(job_ids) - 1}")
        return index
    places = [place for place, job_id in enumerate(job_ids) if job_id == wanted["id"]]
    if not places:
        raise InvalidBody(f"{where}.id: {wanted['id'][:80]!r} is not the id of a job of the batch")
    if len(places) > 1:
        raise InvalidBody(
            f"{where}.id: {wanted['id'][:80]!r} is the id of {counted(len(places), 'job')}; use the index"
        )
    return places[0]


def in_order(leases: Iterable[Lease], dispositions: Iterable[Disposition]) -> list[tuple[Lease, Disposition]]:
    """The order in which to begin settlements: jobs that go to the head last, the newest of them first.

    So they keep their order, because each goes before the others.
    """
    work = list(zip(leases, dispositions, strict=True))
    heads = [each for each in work if _goes_to_head(*each)]
    return [each for each in work if not _goes_to_head(*each)] + heads[::-1]


def _goes_to_head(lease: Lease, disposition: Disposition) -> bool:
    if disposition.state is State.ACKED or lease.mover is None:
        return False
    return lease.mover.target(disposition) is Place.HEAD
