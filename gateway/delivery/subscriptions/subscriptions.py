"""Creating, listing and deleting subscriptions. Knows no HTTP; the children on each server are in
gateway.kestrel.fanout.

1. A subscription that was created on every server gets each job that is stored from then on. If a server did not
   answer, the caller must repeat the request.
2. A deletion is stored before the first server deletes the subscription, so that an unreachable server deletes it when
   it returns.
3. One request at a time creates or deletes a subscription, in all workers of a gateway: otherwise one server might be
   left with it and another one without. Two replicas do not wait for each other.
4. Before a deletion every poll of the subscription ends, in every worker. A poll that looks for jobs meanwhile does not
   create it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.common.counted import counted
from gateway.coverage import Covered, least
from gateway.delivery.backend import Backend, FanoutChildren
from gateway.delivery.caps.link import CapLink
from gateway.delivery.caps.turn import GatewayTurns
from gateway.delivery.figures.head_ages import HeadAges
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.delivery.queues.known import KnownQueues
from gateway.delivery.queues.quota import Quota
from gateway.delivery.subscriptions.deleted import DeletedSubscriptions
from gateway.delivery.subscriptions.existing import no_subscription
from gateway.errors import BackendUnavailable, GatewayError, QueueNotFound
from gateway.names.namespace import FANOUT
from gateway.queue_stats import MergedStats, QueueStats

TURN_S: Final = 20.0
"""How long a request waits for the one before it, which takes a few seconds if a server does not answer."""


def subscription_turns(link: CapLink) -> GatewayTurns:
    """Rule 3, by the key of the subscription."""

    def busy() -> BackendUnavailable:
        return BackendUnavailable("another request creates or deletes this subscription; try again")

    return GatewayTurns(link, "subscription ", TURN_S, busy)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription's figures, with the names of openapi.yaml. name: in paths that read its jobs."""

    name: str
    queue: str
    child: str
    items: int
    bytes: int
    age_s: float
    open_reads: int
    backlog: int
    waiters: int
    total_items: int
    expired_items: int
    discarded_items: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The result of a creation. created: whether the subscription is new on some server. warnings: sentences."""

    name: str
    queue: str
    child: str
    created: bool
    warnings: tuple[str, ...]


class Subscriptions:
    """The subscriptions of the deployment's queues.

    deleted: the deletions that are remembered. turns: for rule 3. end_polls: ends the polls of a key in every worker.
    drop_leases: ends the leases of a deleted key in every worker, and returns their number. peers_have: whether the
    members of the other workers have a key. limit: see kestrel.fanout.Fanout.create.
    """

    def __init__(
        self,
        backend: Backend,
        fanout: FanoutChildren,
        catalog: Catalog,
        known: KnownQueues,
        quota: Quota,
        *,
        ages: HeadAges,
        deleted: DeletedSubscriptions,
        turns: GatewayTurns,
        end_polls: Callable[[str], Awaitable[None]],
        drop_leases: Callable[[str], Awaitable[int]],
        peers_have: Callable[[str], Awaitable[bool]],
        limit: int,
    ) -> None:
        self._backend = backend
        self._fanout = fanout
        self._catalog = catalog
        self._known = known
        self._quota = quota
        self._ages = ages
        self._deleted = deleted
        self._turns = turns
        self._end_polls = end_polls
        self._drop_leases = drop_leases
        self._peers_have = peers_have
        self._limit = limit

    async def create(self, child: Queue) -> Covered[Subscribed | GatewayError]:
        """Creates it on every server. The result is BackendUnavailable if some server did not take part.

        Raises: TooManyQueues; TooManySubscriptions, NotSupported; BackendUnavailable, OutcomeUnknown.
        """
        async with self._turns.turn(child.key):
            return await self._create(child)

    async def _create(self, child: Queue) -> Covered[Subscribed | GatewayError]:
        with await self._quota.room_to_create(child):
            await self._deleted.forget(child.key)
            made = await self._fanout.create(child.key, self._limit)
        coverage = made.coverage
        if coverage is not None and coverage.partial:
            return Covered(
                BackendUnavailable(
                    f"the subscription is on {coverage.asked} of {counted(coverage.total, 'server')}, and "
                    "gets no jobs from the "
                    "others; repeat the request until it succeeds"
                ),
                coverage,
            )
        if not await self._peers_have(child.key):
            return Covered(
                BackendUnavailable(
                    "another worker of this gateway uses a server that has no such subscription yet; repeat the request"
                ),
                None,
            )
        self._known.learn(child)
        warnings = tuple(await self._fanout.warnings())
        return Covered(Subscribed(child.name, child.parent, child.child, made.result, warnings), coverage)

    async def list(self, queue: Queue) -> Covered[list[Subscription] | GatewayError]:
        """The subscriptions of a queue, by name. QueueNotFound if neither exists. Raises BackendUnavailable.

        Ages are by the heads of the last round of figures.
        """
        children = await self._fanout.of(queue.key)
        merged = await self._backend.queue_stats(queue.key, *sorted(children.result))
        merged = await self._ages.known(merged, queue.tenant)
        coverage = least(children.coverage, merged.coverage)
        if not children.result and queue.key not in merged.queues:
            return Covered(QueueNotFound(f"there is no queue {queue.name!r}"), coverage)
        names = {key: self._catalog.name_of(queue.tenant, key) for key in children.result}
        shown = [
            _shown(name, merged.queues[key]) for key, name in names.items() if name is not None and key in merged.queues
        ]
        return Covered(sorted(shown, key=lambda each: each.child), coverage)

    async def get(self, child: Queue) -> Covered[Subscription | GatewayError]:
        """Its figures, or QueueNotFound, or BackendUnavailable if a server that does not answer may have it.

        Looks at its head for the age. Raises BackendUnavailable.
        """
        merged = await self._backend.queue_stats(child.key)
        return self._found(child, await self._ages.peeked(child.key, merged, child.tenant))

    @staticmethod
    def _found(child: Queue, merged: MergedStats, *, wanted: bool = True) -> Covered[Subscription | GatewayError]:
        stats = merged.queues.get(child.key)
        missing = no_subscription(child, merged.coverage, wanted=wanted)
        return Covered(missing if stats is None else _shown(child.name, stats), merged.coverage)

    async def delete(self, child: Queue) -> Covered[int | GatewayError]:
        """Deletes it with its jobs; returns the number of leases that this ended. The errors of `get`.

        A server that does not answer deletes it when it returns. Raises: BackendUnavailable; OutcomeUnknown.
        """
        async with self._turns.turn(child.key):
            return await self._delete(child)

    async def _delete(self, child: Queue) -> Covered[int | GatewayError]:
        found = self._found(child, await self._backend.queue_stats(child.key), wanted=False)
        if isinstance(found.result, GatewayError):
            return Covered(found.result, found.coverage)
        self._quota.existing.forget(child)
        await self._deleted.add(child.key)
        await self._end_polls(child.key)
        servers, coverage = await self._fanout.delete(child.key)
        self._quota.existing.forget(child)
        self._known.forget(child)
        await self._deleted.seen(child.key, servers)
        return Covered(await self._drop_leases(child.key), least(found.coverage, coverage))


def _shown(name: str, stats: QueueStats) -> Subscription:
    queue, _, child = name.partition(FANOUT)
    return Subscription(
        name=name,
        queue=queue,
        child=child,
        items=stats.items,
        bytes=stats.bytes,
        age_s=stats.age_ms / 1000,
        open_reads=stats.open_reads,
        backlog=stats.items + stats.open_reads,
        waiters=stats.waiters,
        total_items=stats.total_items,
        expired_items=stats.expired_items,
        discarded_items=stats.discarded,
    )
