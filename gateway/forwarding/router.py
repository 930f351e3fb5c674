"""Routes every command about a lease: to this worker's registry, or to the worker that owns the lease.

A command is forwarded to one replica only, the owner's, and there to one worker. Between replicas it is sent again if
the connection ended without an answer, at most len(PAUSES_S) times in total (gateway.forwarding.replicas, rule 2).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import GatewayError, Internal, LeaseForgotten, LeaseNotFound, OutcomeUnknown, OwnerUnavailable
from gateway.fairness.turns import Turns
from gateway.forwarding.commands import NO_DELAY, UNCOUNTED, LeaseCommand, Result, Verb, WorkerFigures
from gateway.forwarding.many import ManySettlements, Outcome, settle_group
from gateway.forwarding.replicas import Replicas
from gateway.forwarding.workers import WorkerLinks
from gateway.leases.ahead import AckAhead
from gateway.leases.ids import LeaseIds, Owner
from gateway.leases.lease import LeaseRecord, Place
from gateway.leases.registry import Registry

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ForwardingStatistics:
    """How many commands were sent to other workers and to other replicas, and received from them.

    dead: sent to an owner that is gone. unanswered: sent to one that could not be reached or did not answer in time.
    """

    to_workers: int = 0
    to_replicas: int = 0
    from_workers: int = 0
    from_replicas: int = 0
    dead: int = 0
    unanswered: int = 0

    def __str__(self) -> str:
        return (
            f"to workers {self.to_workers}, to replicas {self.to_replicas}, from workers {self.from_workers}, "
            f"from replicas {self.from_replicas}; owner dead {self.dead}, unanswered {self.unanswered}"
        )


class LeaseRouter:
    """Settles any lease of the cluster, whichever worker holds it, only for its own tenant.

    replicas: None if this gateway is the only one. limit_s: longest time of a command, forwarding included.
    count: reads this worker's figures.
    """

    def __init__(
        self,
        ids: LeaseIds,
        registry: Registry,
        worker_links: WorkerLinks,
        replicas: Replicas | None,
        *,
        turns: Turns,
        limit_s: float,
        count: Callable[[], WorkerFigures],
    ) -> None:
        self._ids = ids
        self._registry = registry
        self._worker_links = worker_links
        self._replicas = replicas
        self._limit_s = limit_s
        self._count = count
        self._many = ManySettlements(
            registry, turns, owner=self._elsewhere, one=self._one, ask=self._ask, limit_s=limit_s
        )
        self.statistics = ForwardingStatistics()

    async def ack(self, lease_id: str, tenant: str, upto: int = 0) -> LeaseRecord:
        """Removes the job for good. Raises LeaseNotFound, OwnerUnavailable, and what Registry.ack raises."""
        owner = self._elsewhere(lease_id, tenant)
        if owner is None:
            return await self._registry.ack(lease_id, upto)
        return await self._forward(owner, self._command(Verb.ACK, lease_id, tenant, length_s=float(upto)))

    async def settle(self, lease_id: str, tenant: str, settlement: Mapping[str, Any]) -> LeaseRecord:
        """Settles each job of a batch. Raises LeaseNotFound, OwnerUnavailable, and what Registry.settle raises."""
        owner = self._elsewhere(lease_id, tenant)
        if owner is None:
            return await self._registry.settle(lease_id, settlement)
        command = self._command(Verb.SETTLE_BATCH, lease_id, tenant, reason=orjson.dumps(settlement).decode())
        return await self._forward(owner, command)

    def ack_ahead(self, lease_id: str, tenant: str) -> AckAhead | None:
        """See Registry.ack_ahead; None also if another worker holds the lease. Raises LeaseNotFound."""
        return self._registry.ack_ahead(lease_id) if self._elsewhere(lease_id, tenant) is None else None

    async def nack(
        self,
        lease_id: str,
        tenant: str,
        *,
        asked: Place | None = None,
        delay_s: float | None = None,
        reason: str = "",
        counted: bool = True,
    ) -> LeaseRecord:
        """Gives the job back to the requested place after the delay. None: the queue's policy decides.

        counted: whether this was an attempt; if not, it goes to the head, without delay.

        Raises LeaseNotFound, OwnerUnavailable, and what Registry.nack raises.
        """
        owner = self._elsewhere(lease_id, tenant)
        if owner is None:
            return await self._registry.nack(lease_id, asked=asked, delay_s=delay_s, reason=reason, counted=counted)
        position = asked.value if asked is not None else ""
        length_s = 0.0 if delay_s is None else delay_s or NO_DELAY
        if not counted:
            length_s = UNCOUNTED
        command = self._command(Verb.NACK, lease_id, tenant, length_s=length_s, position=position, reason=reason)
        return await self._forward(owner, command)

    async def reject(self, lease_id: str, tenant: str, *, reason: str = "") -> LeaseRecord:
        """Moves the job to the dead letters. Raises LeaseNotFound, OwnerUnavailable, and what Registry.reject
        raises."""
        owner = self._elsewhere(lease_id, tenant)
        if owner is None:
            return await self._registry.reject(lease_id, reason=reason)
        return await self._forward(owner, self._command(Verb.REJECT, lease_id, tenant, reason=reason))

    async def extend(self, lease_id: str, tenant: str, length_s: float) -> LeaseRecord:
        """The lease ends `length_s` seconds from now.

        Raises LeaseNotFound, OwnerUnavailable, and what Registry.extend raises.
        """
        owner = self._elsewhere(lease_id, tenant)
        if owner is None:
            return await self._registry.extend(lease_id, length_s)
        return await self._forward(owner, self._command(Verb.EXTEND, lease_id, tenant, length_s=length_s))

    async def settle_many(self, commands: Sequence[LeaseCommand], tenant: str) -> list[Outcome]:
        """See ManySettlements.settle."""
        return await self._many.settle(commands, tenant)

    async def _one(self, command: LeaseCommand) -> LeaseRecord:
        """The result of an ACK, NACK or REJECT. Raises what `ack`, `nack` and `reject` raise."""
        owner = self._elsewhere(command.subject, command.tenant)
        if owner is not None:
            return await self._forward(owner, command)
        return _record_of(await self._execute(command))

    async def _one_here(self, command: LeaseCommand) -> LeaseRecord:
        """Like `_one`, for another worker, which has found that this one holds the lease."""
        if self._elsewhere(command.subject, command.tenant) is not None:
            raise LeaseNotFound("no such lease")
        return _record_of(await self._execute(command))

    async def inspect(self, lease_id: str, tenant: str) -> LeaseRecord:
        """What is known of the lease. Raises LeaseNotFound, LeaseForgotten, OutcomeUnknown, OwnerUnavailable."""
        owner = self._elsewhere(lease_id, tenant)
        if owner is None:
            return self._registry.inspect(lease_id)
        return await self._forward(owner, self._command(Verb.INSPECT, lease_id, tenant))

    def _elsewhere(self, lease_id: str, tenant: str) -> Owner | None:
        """The worker that holds the lease; None: this one. Raises LeaseNotFound.

        The id of a lease which is open here needs no proof of its origin, unless its key may have been withdrawn.
        """
        if not self._ids.replaced and self._registry.leases.is_open(lease_id, tenant):
            return None
        owner = self._ids.owner(lease_id, tenant)
        return None if owner == self._ids.own else owner

    async def drop_queue(self, key: str) -> int:
        """Ends the leases on a deleted queue, in every worker; returns how many it is known to have ended."""
        ended = await self._registry.drop_queue(key)
        deadline_s = time.monotonic() + self._limit_s
        for result in await self._worker_links.broadcast(LeaseCommand(Verb.DROP_QUEUE, key, deadline_s).passed_on()):
            if not isinstance(result, LeaseForgotten):  # the socket of a worker that died earlier
                self.statistics.to_workers += 1
                self._note(result)
            ended += result if isinstance(result, int) else 0
        return ended

    async def figures(self, within_s: float) -> list[WorkerFigures]:
        """The figures of this worker, and of each other worker of this gateway that answers in time."""
        command = LeaseCommand(Verb.COUNT, "", time.monotonic() + within_s)
        answers = await self._worker_links.broadcast(command)
        return [self._count(), *(each for each in answers if isinstance(each, WorkerFigures))]

    async def execute(self, command: LeaseCommand) -> Result:
        """Executes another worker's command on this worker's own leases. Never raises: an error is the result."""
        self.statistics.from_workers += command.hops > 0
        return await self._carry_out(command)

    async def _carry_out(self, command: LeaseCommand) -> Result:
        if command.late:
            return OwnerUnavailable("the gateway that holds the lease is busy; send the request again")
        try:
            return await self._execute(command)
        except GatewayError as exc:
            return exc

    async def receive(self, command: LeaseCommand) -> Result:
        """Executes another replica's command on the leases of this one. Never raises: an error is the result.

        The lease id is checked again. A command for a third replica is refused.
        """
        self.statistics.from_replicas += 1
        try:
            owner = self._ids.owner(command.subject, command.tenant)
            if owner.instance != self._ids.own.instance:
                log.error("received a command for %s: do two replicas advertise the same URL?", owner.instance)
                return OwnerUnavailable(
                    "another replica answers at the address of the one that holds the lease; "
                    "give each replica an --advertise of its own"
                )
            if owner == self._ids.own or command.late:
                return await self._carry_out(command)
            return await self._to_worker(owner.boot_id, command)
        except GatewayError as exc:
            return exc

    def _command(self, verb: Verb, lease_id: str, tenant: str, **arguments: Any) -> LeaseCommand:
        return LeaseCommand(verb, lease_id, time.monotonic() + self._limit_s, tenant=tenant, **arguments)

    async def _forward(self, owner: Owner, command: LeaseCommand) -> LeaseRecord:
        """The result of another worker or replica. Raises it if it is an error."""
        return _record_of(await self._ask(owner, command))

    async def _ask(self, owner: Owner, command: LeaseCommand) -> Result:
        if owner.instance == self._ids.own.instance:
            return await self._to_worker(owner.boot_id, command)
        return await self._to_replica(owner.instance, command)

    async def _to_worker(self, boot_id: str, command: LeaseCommand) -> Result:
        self.statistics.to_workers += 1
        try:
            return await self._worker_links.ask(boot_id, command.passed_on())
        except GatewayError as exc:
            self._note(exc)
            raise

    async def _to_replica(self, instance: str, command: LeaseCommand) -> Result:
        if self._replicas is None:
            raise LeaseForgotten(
                "the lease belongs to another replica, and this gateway runs without replicas; settle the lease at the "
                "other replica, or give this one --advertise and --cluster-secret"
            )
        self.statistics.to_replicas += 1
        try:
            return await self._replicas.ask(instance, command)
        except GatewayError as exc:
            self._note(exc)
            raise

    def _note(self, outcome: object) -> None:
        """Counts a command that its owner did not answer. An error in the owner's answer does not count."""
        self.statistics.dead += isinstance(outcome, LeaseForgotten)
        self.statistics.unanswered += isinstance(outcome, (OutcomeUnknown, OwnerUnavailable, OSError))

    async def _execute(self, command: LeaseCommand) -> Result:
        """Executes a command on this worker's leases, whoever sent it."""
        registry, lease_id = self._registry, command.subject
        match command.verb:
            case Verb.ACK:
                return await registry.ack(lease_id, int(command.length_s))
            case Verb.SETTLE_BATCH:
                return await registry.settle(lease_id, orjson.loads(command.reason))
            case Verb.NACK:
                asked = Place(command.position) if command.position else None
                counted = command.length_s != UNCOUNTED
                delay_s = max(0.0, command.length_s) if command.length_s and counted else None
                return await registry.nack(
                    lease_id, asked=asked, delay_s=delay_s, reason=command.reason, counted=counted
                )
            case Verb.REJECT:
                return await registry.reject(lease_id, reason=command.reason)
            case Verb.EXTEND:
                return await registry.extend(lease_id, command.length_s)
            case Verb.INSPECT:
                return registry.inspect(lease_id)
            case Verb.DROP_QUEUE:
                return await registry.drop_queue(command.subject)
            case Verb.COUNT:
                return self._count()
            case Verb.SETTLE_MANY:
                return await settle_group(command, registry, self._one_here)
            case (
                Verb.END_POLLS | Verb.HOLD_PUTS | Verb.RELEASE_PUTS | Verb.ENSURE_CHILD | Verb.LIST_LEASES
            ):  # delivery.worker_commands executes these
                raise Internal(f"{command.verb.value} is not a command about leases")


def _record_of(result: Result) -> LeaseRecord:
    """Raises the result if it is an error."""
    if isinstance(result, GatewayError):
        raise result
    if not isinstance(result, LeaseRecord):
        raise Internal("unexpected reply from a worker")
    return result
