"""Where every order about a lease goes: to this worker's registry, or to the worker that owns the lease.

An order leaves a replica at most once, for the owner's replica, and there goes to the owner's worker at most once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import GatewayError, Internal, LeaseForgotten, OutcomeUnknown, OwnerUnavailable
from gateway.forwarding.commands import LeaseCommand, LeaseView, Result, Verb, WorkerFigures, view
from gateway.forwarding.replicas import Replicas
from gateway.forwarding.workers import WorkerLinks
from gateway.leases.ids import LeaseIds
from gateway.leases.lease import Place
from gateway.leases.registry import Registry

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ForwardingStatistics:
    """How many orders went to other workers here and to other replicas, and came from them.

    dead: went to an owner that is gone. unanswered: to one that could not be reached, or gave no answer in time.
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
    """Settles any lease of the cluster, whichever worker it was taken through, for its own tenant only.

    replicas: None where this gateway is the only one. limit_s: how long an order may take, forwarding included.
    count: reads this worker's figures.
    """

    def __init__(
        self,
        ids: LeaseIds,
        registry: Registry,
        worker_links: WorkerLinks,
        replicas: Replicas | None,
        *,
        limit_s: float,
        count: Callable[[], WorkerFigures],
    ) -> None:
        self._ids = ids
        self._registry = registry
        self._worker_links = worker_links
        self._replicas = replicas
        self._limit_s = limit_s
        self._count = count
        self.statistics = ForwardingStatistics()

    async def ack(self, lease_id: str, tenant: str) -> LeaseView:
        """The job is gone for good. Raises: LeaseNotFound, and as Registry.ack."""
        return await self._order(Verb.ACK, lease_id, tenant)

    async def nack(
        self, lease_id: str, tenant: str, *, position: str = "", delay_s: float = 0.0, reason: str = ""
    ) -> LeaseView:
        """The job is back, or will be after the delay. position: `head`, `tail` or empty: by the queue's policy.

        Raises: LeaseNotFound, and as Registry.nack.
        """
        return await self._order(Verb.NACK, lease_id, tenant, length_s=delay_s, position=position, reason=reason)

    async def reject(self, lease_id: str, tenant: str, *, reason: str = "") -> LeaseView:
        """The job is among the dead letters. Raises: LeaseNotFound, and as Registry.reject."""
        return await self._order(Verb.REJECT, lease_id, tenant, reason=reason)

    async def extend(self, lease_id: str, tenant: str, length_s: float) -> LeaseView:
        """The lease ends `length_s` seconds from now. Raises: LeaseNotFound, and as Registry.extend."""
        return await self._order(Verb.EXTEND, lease_id, tenant, length_s=length_s)

    async def inspect(self, lease_id: str, tenant: str) -> LeaseView:
        """What is known of the lease. Raises: LeaseNotFound, LeaseForgotten, OutcomeUnknown, OwnerUnavailable."""
        return await self._order(Verb.INSPECT, lease_id, tenant)

    async def drop_queue(self, key: str) -> int:
        """Ends the leases on a deleted queue, in every worker; returns how many it is known to have ended."""
        ended = await self._registry.drop_queue(key)
        deadline_s = time.monotonic() + self._limit_s
        for result in await self._worker_links.broadcast(LeaseCommand(Verb.DROP_QUEUE, key, deadline_s).passed_on()):
            if not isinstance(result, LeaseForgotten):  # the socket of one that died earlier
                self.statistics.to_workers += 1
                self._note(result)
            ended += result if isinstance(result, int) else 0
        return ended

    async def figures(self, within_s: float) -> list[WorkerFigures]:
        """What this worker has counted, and each other one of this gateway that answers in time."""
        order = LeaseCommand(Verb.COUNT, "", time.monotonic() + within_s)
        answers = await self._worker_links.broadcast(order)
        return [self._count(), *(each for each in answers if isinstance(each, WorkerFigures))]

    async def execute(self, order: LeaseCommand) -> Result:
        """Carries out another worker's order on this one's own leases; never raises, an error is the result."""
        self.statistics.from_workers += order.hops > 0
        return await self._carry_out(order)

    async def _carry_out(self, order: LeaseCommand) -> Result:
        if order.late:
            return OwnerUnavailable("the gateway that holds the lease was too busy; send the request again")
        try:
            return await self._local(order)
        except GatewayError as exc:
            return exc

    async def receive(self, order: LeaseCommand) -> Result:
        """Carries out another replica's order on the leases of this one; never raises, an error is the result.

        The lease's id is checked again; an order that is for a third replica goes no further.
        """
        self.statistics.from_replicas += 1
        try:
            owner = self._ids.owner(order.subject, order.tenant)
            if owner.instance != self._ids.own.instance:
                log.error("an order for %s came here: do two replicas advertise one address?", owner.instance)
                return OwnerUnavailable(
                    "another replica answers at the address of the one that holds the lease; "
                    "give each replica an --advertise of its own"
                )
            if owner == self._ids.own or order.late:
                return await self._carry_out(order)
            return await self._to_worker(owner.boot_id, order)
        except GatewayError as exc:
            return exc

    async def _order(
        self, verb: Verb, lease_id: str, tenant: str, *, length_s: float = 0.0, position: str = "", reason: str = ""
    ) -> LeaseView:
        owner = self._ids.owner(lease_id, tenant)
        order = LeaseCommand(verb, lease_id, time.monotonic() + self._limit_s, length_s, position, reason, tenant)
        result: Result
        if owner == self._ids.own:
            result = await self._local(order)
        elif owner.instance == self._ids.own.instance:
            result = await self._to_worker(owner.boot_id, order)
        else:
            result = await self._to_replica(owner.instance, order)
        if isinstance(result, GatewayError):
            raise result
        if not isinstance(result, LeaseView):
            raise Internal("a worker answered another question")
        return result

    async def _to_worker(self, boot_id: str, order: LeaseCommand) -> Result:
        self.statistics.to_workers += 1
        try:
            return await self._worker_links.ask(boot_id, order.passed_on())
        except GatewayError as exc:
            self._note(exc)
            raise

    async def _to_replica(self, instance: str, order: LeaseCommand) -> Result:
        if self._replicas is None:
            raise LeaseForgotten("the lease belongs to a replica, and this gateway has none any more")
        self.statistics.to_replicas += 1
        try:
            return await self._replicas.ask(instance, order)
        except GatewayError as exc:
            self._note(exc)
            raise

    def _note(self, outcome: object) -> None:
        """Counts an order that its owner did not answer. An error that is an owner's answer is not meant."""
        self.statistics.dead += isinstance(outcome, LeaseForgotten)
        self.statistics.unanswered += isinstance(outcome, (OutcomeUnknown, OwnerUnavailable))

    async def _local(self, order: LeaseCommand) -> LeaseView | WorkerFigures | int:
        registry = self._registry
        match order.verb:
            case Verb.ACK:
                return view(await registry.ack(order.subject))
            case Verb.NACK:
                asked = Place(order.position) if order.position else None
                lease = await registry.nack(order.subject, asked=asked, delay_s=order.length_s, reason=order.reason)
                return view(lease, asked)
            case Verb.REJECT:
                return view(await registry.reject(order.subject, reason=order.reason))
            case Verb.EXTEND:
                return view(await registry.extend(order.subject, order.length_s))
            case Verb.INSPECT:
                return view(registry.find(order.subject))
            case Verb.DROP_QUEUE:
                return await registry.drop_queue(order.subject)
            case Verb.COUNT:
                return self._count()
