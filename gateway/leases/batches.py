"""Settles batches: begins the settlements of their jobs, and waits for all of them. The jobs' leases do the rest.

1. All settlements of a request begin in one turn of the loop, so that they can go to the server in one write.
2. A settlement of the whole batch succeeds if it succeeds for every job that was still held; otherwise its error is
   that of a job, and the record of the batch says what happened to each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.common.counted import counted
from gateway.errors import GatewayError, InvalidBody, LeaseForgotten, OutcomeUnknown
from gateway.leases.batch import BatchLease, batch_record, check_upto, ended_error, in_order, plan
from gateway.leases.known import KnownLeases
from gateway.leases.lease import Disposition, Lease, LeaseRecord, State, settlement_error
from gateway.leases.settlements import Settlements

_DONE = {State.ACKED: "acked", State.NACKED: "nacked", State.REJECTED: "rejected"}


class Batches:
    """The batches among `leases`. settlements: of the leases of their jobs."""

    def __init__(self, leases: KnownLeases, settlements: Settlements) -> None:
        self._leases = leases
        self._settlements = settlements

    def begin(self, first: Lease) -> BatchLease:
        """A batch of one job, whose lease is open and which is known by the id of that lease from now on."""
        batch = self._leases.batches[first.id] = BatchLease(first.id)
        self.add(batch, first)
        return batch

    def add(self, batch: BatchLease, lease: Lease) -> None:
        """One more job, whose lease is open. The batch must be open."""
        lease.batch_id = batch.id
        batch.leases.append(lease)
        batch.open += 1

    async def ack(self, batch: BatchLease, upto: int = 0) -> LeaseRecord:
        """Acks every job that is held, or those of them among the first `upto`, if it is not 0.

        Raises what Registry.ack raises: an error of a job; the others may be acked. InvalidBody: the batch has fewer
        jobs. Cancelled: the settlements continue.
        """
        check_upto(upto, len(batch.leases))
        leases = batch.leases[:upto] if upto else batch.leases
        mine = [lease for lease in leases if lease.state is State.HELD]
        for lease in mine:
            self._settlements.start_ack(lease)
        return await self._ended(batch, leases, State.ACKED, mine)

    async def move(self, batch: BatchLease, disposition: Disposition) -> LeaseRecord:
        """Nacks or rejects every job that is held. Raises and Cancelled: as for `ack`; DelayBeyondExpiry, and nothing
        was done."""
        mine = batch.held()
        await self.check(mine, [disposition] * len(mine))
        mine = batch.held()  # some may have ended meanwhile
        for lease, each in in_order(mine, [disposition] * len(mine)):
            self._settlements.begin_move(lease, each)
        record = await self._ended(batch, batch.leases, disposition.state, mine)
        if disposition.asked is None:
            return record
        asked = disposition.asked
        return record._replace(
            jobs=tuple(each if each.target is None else each._replace(target=asked) for each in record.jobs)
        )

    async def settle(self, batch: BatchLease, settlement: Mapping[str, Any]) -> LeaseRecord:
        """Settles each job that is held as the request says; see gateway.leases.batch.plan. The record says how each
        has ended.

        Raises: InvalidBody, DelayBeyondExpiry; nothing was done. Cancelled: as for `ack`.
        """
        ways = plan(settlement, [lease.job_id for lease in batch.leases])
        mine = [each for each in enumerate(batch.leases) if each[1].state is State.HELD]
        await self.check([lease for _, lease in mine], [ways.of(index) for index, _ in mine])
        mine = [each for each in mine if each[1].state is State.HELD]  # some may have ended meanwhile
        dispositions = [ways.of(index) for index, _ in mine]
        batch.mixed = batch.mixed or len({each.state for each in dispositions}) > 1
        for lease, disposition in in_order([lease for _, lease in mine], dispositions):
            if disposition.state is State.ACKED:
                self._settlements.start_ack(lease)
            else:
                self._settlements.begin_move(lease, disposition)
        await _over(batch.leases)
        return batch.record()

    async def extend(self, batch: BatchLease, length_s: float) -> LeaseRecord:
        """Every job that is held ends `length_s` seconds from now. Raises as Registry.extend."""
        await _over(batch.leases)
        held = batch.held()
        if not held:
            raise ended_error(batch.record(), State.HELD) or LeaseForgotten("the outcome of the lease is unknown")
        check_length(length_s, min(lease.latest_s for lease in held))
        for lease in held:
            self._leases.set_deadline(lease, length_s)
        return batch.record()

    def expire_with(self, lease: Lease, expired: Disposition) -> list[Lease]:
        """The leases to end now, in this order: a batch expires as a whole, so that its jobs keep their order."""
        held = self._leases.batches[lease.batch_id].held()
        return [each for each, _ in in_order(held, [expired] * len(held))]

    async def check(self, leases: Sequence[Lease], dispositions: Sequence[Disposition]) -> None:
        """Raises DelayBeyondExpiry if one of the jobs would expire before its delay is over."""
        for lease, disposition in zip(leases, dispositions, strict=True):
            if disposition.state is State.NACKED and lease.mover is not None:
                await lease.mover.check(lease, disposition)

    async def _ended(
        self, batch: BatchLease, leases: Sequence[Lease], wanted: State, mine: Sequence[Lease]
    ) -> LeaseRecord:
        """The record of the batch when these leases are settled as `wanted`; raises any other outcome.

        mine: those whose settlement this call has begun. If there are any, the others do not count.
        """
        refusals = await _over(mine or leases)
        records = [lease.record() for lease in mine or leases]
        record = batch_record(batch.id, records, mixed=batch.mixed)
        error = settlement_error(record.state, wanted) if mine else ended_error(record, wanted)
        if error is None:
            return batch.record()
        if mine and refusals:
            error = refusals[0]
        elif mine and record.state is State.UNKNOWN:
            error = OutcomeUnknown("the settlement was sent to Kestrel, but no answer came")
        done = sum(settlement_error(each.state, wanted) is None for each in records)
        if mine and done:
            were = "was" if done == 1 else "were"
            error.detail = (
                f"{done} of {counted(len(records), 'job')} {were} {_DONE[wanted]}. The first failure: {error.detail}"
            )
        raise error


def check_length(length_s: float, latest_s: float) -> None:
    """Raises InvalidBody if a lease that ends in `length_s` would end after `latest_s`, which is monotonic."""
    left_s = latest_s - time.monotonic()
    if length_s > left_s:
        shown_s = max(0.0, left_s)
        raise InvalidBody(f"this lease can last at most {shown_s:.3f} s more (Kestrel's openTransactionTimeout)")


async def _over(leases: Iterable[Lease]) -> list[GatewayError]:
    """Returns when no settlement of these is in progress, with Kestrel's refusals."""
    settlements = [lease.settlement for lease in leases if lease.settlement is not None]
    return [refusal for each in settlements if (refusal := await each.result()) is not None]
