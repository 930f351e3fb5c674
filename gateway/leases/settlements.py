"""How a lease is settled: begins the command to the server, and ends the lease with its outcome. Knows no limits.

1. A settlement begins with SETTLING, and ends in the state that the server's answer gives.
2. It is a task of the lifespan's group, or a callback if nothing is awaited. So it continues if its request is
   cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from gateway.errors import BackendRefused, GatewayError, LeaseLost, OutcomeUnknown, QueueDeleted
from gateway.leases.batch import ended_error
from gateway.leases.known import KnownLeases
from gateway.leases.lease import Disposition, Lease, LeaseRecord, State

log = logging.getLogger(__name__)


class Settlements:
    """Settles `leases`. tasks: the lifespan's group."""

    def __init__(self, leases: KnownLeases, tasks: asyncio.TaskGroup) -> None:
        self._leases = leases
        self._tasks = tasks

    def start_ack(self, lease: Lease) -> bool:
        """Begins the ack of a held lease, without a task if nothing has to be awaited; returns whether that is so."""
        read = lease.read
        assert read is not None
        self._leases.begin_settlement(lease)
        started = read.start_confirm(partial(self._confirmed, lease))
        if not started:
            self._tasks.create_task(self._finish(lease, State.ACKED, read.confirm))
        return started

    def _confirmed(self, lease: Lease, error: GatewayError | None) -> None:
        """The ack was answered, or not in time; in that case possibly later."""
        outcome, refusal = (State.ACKED, None) if error is None else _unsettled(error)
        if lease.state is State.SETTLING:
            self._leases.end(lease, outcome, refusal)
        elif lease.state is State.UNKNOWN and outcome is not State.UNKNOWN:
            self._leases.correct(lease, outcome)

    def begin_move(self, lease: Lease, disposition: Disposition, *, late: bool = False) -> None:
        """Begins to end a held or delayed lease without an ack. late: see `_move_job`."""
        lease.plan(disposition)
        self._leases.begin_settlement(lease)
        move = partial(self._move_job, lease, disposition, late=late)
        self._tasks.create_task(self._finish(lease, disposition.state, move))

    async def settled(self, lease: Lease | LeaseRecord, wanted: State, *, mine: bool) -> None:
        """Returns when the lease is settled as `wanted`; raises any other outcome.

        mine: this caller has begun the settlement. Cancelled: the settlement continues.
        """
        refusal = None
        if isinstance(lease, Lease) and lease.settlement is not None:
            refusal = await lease.settlement.result()
        error = ended_error(lease, wanted)
        if error is None:
            return
        if mine and refusal is not None:
            raise refusal
        if mine and lease.state is State.UNKNOWN:
            raise OutcomeUnknown("the settlement was sent to Kestrel, but no answer came")
        raise error

    async def _finish(self, lease: Lease, wanted: State, work: Callable[[], Coroutine[Any, Any, State | None]]) -> None:
        """Settles and ends the lease. work: returns how it ends; None: as wanted."""
        read = lease.read
        if read is None:
            return  # its queue was deleted before this started
        outcome, refusal = State.UNKNOWN, None
        try:
            outcome = await work() or wanted
        except (LeaseLost, QueueDeleted, BackendRefused, OutcomeUnknown) as error:
            outcome, refusal = _unsettled(error)
        except asyncio.CancelledError:
            read.give_back()
            raise
        except Exception:
            log.exception("settling a lease failed")
            read.give_back()
        finally:
            if lease.state is State.SETTLING:
                self._leases.end(lease, outcome, refusal)

    async def _move_job(self, lease: Lease, disposition: Disposition, *, late: bool) -> State:
        """How the lease ends; DELAYED also if it stays open until the job is due. late: the job may have been back at
        the head for a while, and a copy would be its second."""
        assert lease.mover is not None
        if late and lease.read is not None:
            await lease.read.verify()
        moved = await lease.mover.move(lease, disposition)
        if moved.due_at_s is None:
            lease.place = moved.place
            return disposition.state
        if moved.set_aside and lease.state is State.SETTLING:
            self._postpone(lease, moved.due_at_s)
            return State.DELAYED
        lease.place = moved.place
        if disposition.state is State.NACKED:
            lease.expires_at_s = moved.due_at_s
            return State.DELAYED
        return disposition.state

    def _postpone(self, lease: Lease, due_at_s: float) -> None:
        """The job stays set aside until it is due, or until Kestrel's own limit for open reads."""
        self._leases.set_deadline(lease, due_at_s - time.time())
        lease.move(State.DELAYED)
        settlement, lease.settlement = lease.settlement, None
        if settlement is not None:
            settlement.end(None)
        self._leases.delay(lease)


def _unsettled(error: GatewayError) -> tuple[State, GatewayError | None]:
    """How a lease ends whose settlement has failed, and Kestrel's refusal if that is why."""
    if isinstance(error, BackendRefused):
        return State.LOST, BackendRefused(f"{error.detail}; the job is back on its queue")
    if isinstance(error, LeaseLost):
        return State.LOST, None
    return (State.DROPPED if isinstance(error, QueueDeleted) else State.UNKNOWN), None
