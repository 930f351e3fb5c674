"""The composition root: builds the application of one worker from its parts. Nothing else puts parts together.

The lowest parts come first: what bounds memory and time, then Kestrel, leases, the use cases, what runs beside the
requests, and HTTP. `lifespan` starts and closes them in order. `reload` reads the files again that may change.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from gateway.api.access.admission import Admission
from gateway.api.access.budget import Budget
from gateway.api.access.guard import Guard
from gateway.api.asgi import AsgiRequest
from gateway.api.context import Serve
from gateway.api.cors import Cors
from gateway.api.edge import Edge
from gateway.api.handlers.acks import PollAcks
from gateway.api.handlers.backends import Backends
from gateway.api.handlers.batches import BatchJobs
from gateway.api.handlers.dead_letters import DeadLetterHandlers
from gateway.api.handlers.enqueue import EnqueueJobs
from gateway.api.handlers.health import HealthHandlers
from gateway.api.handlers.info import Info
from gateway.api.handlers.jobs import Jobs
from gateway.api.handlers.leases import Leases
from gateway.api.handlers.page import Page
from gateway.api.handlers.page_data import FigureRows, PageData
from gateway.api.handlers.pauses import PauseAdmin
from gateway.api.handlers.preferred import PreferredJobs
from gateway.api.handlers.queue_details import QueueDetails
from gateway.api.handlers.queues import QueueAdmin
from gateway.api.handlers.replicas import ReplicaEndpoint
from gateway.api.handlers.streams import Streams
from gateway.api.handlers.subscriptions import SubscriptionAdmin
from gateway.api.handlers.webhook import Webhook
from gateway.api.metrics.broker_text import BrokerText
from gateway.api.metrics.exposition import Metrics
from gateway.api.metrics.meter import Meter
from gateway.api.request.idempotency import IdempotentAnswer
from gateway.api.request.polls import PollRequests
from gateway.api.routes import router
from gateway.api.specification import Specification, longest_lease
from gateway.common import logs
from gateway.common.shares import WHOLE, Shares
from gateway.config import policies
from gateway.delivery.batches import BatchReceiver
from gateway.delivery.caps.caps import Caps
from gateway.delivery.caps.link import CapLink
from gateway.delivery.control.control import Control
from gateway.delivery.dead_letters.inspection import DeadLetterAdmin
from gateway.delivery.dead_letters.letters import DeadLetterJobs, search_turns
from gateway.delivery.dead_letters.redrive import Redrive
from gateway.delivery.dead_letters.store import dead_key
from gateway.delivery.delay.held_job_mover import HeldJobMover
from gateway.delivery.delay.holding import HoldingQueues
from gateway.delivery.delay.own_delays import OwnDelays
from gateway.delivery.delay.watch import DelayedJobs
from gateway.delivery.figures.gatherer import Gatherer
from gateway.delivery.figures.head_ages import HeadAges
from gateway.delivery.figures.history import History
from gateway.delivery.figures.largest import LargestQueues
from gateway.delivery.idempotency.idempotent_enqueue import shared_by_workers
from gateway.delivery.moves import Moves
from gateway.delivery.ordered_queues import OrderedQueues
from gateway.delivery.pause import Pauses
from gateway.delivery.poll_limits import PollLimits
from gateway.delivery.preferred import PreferredReceiver
from gateway.delivery.publish import Publisher
from gateway.delivery.queues.catalog import Catalog
from gateway.delivery.queues.known import KnownQueues
from gateway.delivery.queues.management import Queues
from gateway.delivery.queues.quota import Quota
from gateway.delivery.queues.unreachable import UnreachableQueues
from gateway.delivery.receive import Receiver
from gateway.delivery.streams.open_streams import OpenStreams
from gateway.delivery.subscriptions.deleted import DeletedSubscriptions
from gateway.delivery.subscriptions.peers import PeerWorkers
from gateway.delivery.subscriptions.subscriptions import Subscriptions, subscription_turns
from gateway.delivery.worker_commands import WorkerCommands
from gateway.fairness.loop_time import LoopTime
from gateway.fairness.turns import Turns
from gateway.forwarding.lease_lists import LeaseLists
from gateway.forwarding.replicas import replicas_of
from gateway.forwarding.router import LeaseRouter
from gateway.forwarding.seal import lease_keys
from gateway.forwarding.workers import WorkerLinks, WorkerServer
from gateway.kestrel.client import Kestrel
from gateway.leases.ids import LeaseIds
from gateway.leases.known import KnownLeases
from gateway.leases.registry import Registry
from gateway.lifespan import Drain, Lifespan
from gateway.names.namespace import Namespace
from gateway.reload import KeyReload, PolicyReload, SecretReload, read_keys, reload_all
from gateway.settings import Settings

if TYPE_CHECKING:  # it imports an optional dependency
    from gateway.traces.traces import Traces


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker gets in addition to the settings.

    boot_id: 16 hex digits, new for each start. run_dir: a private directory with the workers' sockets. lease_key: the
    same for all workers. kestrel: the servers' addresses, `unix:PATH` for the embedded broker. tenanted: whether keys
    had tenants when the supervisor started. cluster_secrets: the same for all replicas; empty without replicas.
    worker_socket: the embedded broker's socket for multiplexed connections; empty without that broker.
    """

    index: int
    boot_id: str
    run_dir: Path
    lease_key: bytes
    kestrel: tuple[str, ...]
    tenanted: bool
    cluster_secrets: tuple[bytes, ...] = ()
    worker_socket: str = ""


class Gateway:
    """One worker's application: the server calls `handle` for each request, an ASGI server the application itself.

    routes: every path. buffers: the memory that its requests hold. loop_time: what its tenants use.

    Raises MistakesError if a file of keys or policies cannot be used.
    """

    def __init__(self, settings: Settings, context: WorkerContext) -> None:
        tenanted = context.tenanted
        share = settings.tenant_share if tenanted else WHOLE
        tasks = asyncio.TaskGroup()

        # What bounds memory and time
        self.buffers = Shares(settings.max_buffer_bytes, share)
        self.loop_time = LoopTime(tenanted=tenanted)
        turns = Turns(self.loop_time)
        budget = Budget(self.buffers, Shares(settings.max_connections, share), turns)
        poll_limits = PollLimits(
            settings.max_waiters,
            tenant_limit=settings.max_tenant_waiters,
            queue_limit=settings.max_queue_waiters,
            share=share,
        )

        # Names, keys and policies
        admission = Admission(read_keys(settings.keys, tenanted=tenanted) if settings.keys is not None else None)
        namespace = Namespace(settings.namespace, tenanted)
        catalog = Catalog(namespace, policies.load(settings.queues, namespace))

        # Kestrel
        kestrel = Kestrel(
            context.kestrel,
            settings,
            settings.kestrel_file,
            share=share,
            tenant_of=lambda key: namespace.tenant_of(key) or "",
            loop_time=self.loop_time,
            owns=lambda key: catalog.owner_of(key) is not None,
            worker_sockets={context.kestrel[0]: context.worker_socket} if context.worker_socket else {},
        )
        control = Control(kestrel.each_member, namespace.internal_key("control"), eager=context.index == 0)

        # Leases, and who settles one that another worker or replica holds
        ids = LeaseIds(lease_keys(context.cluster_secrets) or [context.lease_key], context.boot_id, settings.instance)
        registry = self._registry = Registry(
            ids,
            tasks,
            limit=settings.max_leases,
            tenant_limit=settings.max_tenant_leases,
            limit_bytes=settings.max_lease_bytes,
            longest_s=longest_lease(settings) if settings.kestrel_open_timeout_s else 0.0,
            memory_s=settings.settled_memory_s,
            memory_limit=settings.max_settled,
            share=share,
        )
        links = WorkerLinks(context.run_dir, context.boot_id)
        replicas = replicas_of(settings, context.cluster_secrets)
        lease_router = LeaseRouter(
            ids,
            registry,
            links,
            replicas,
            turns=turns,
            limit_s=2 * settings.kestrel_command_timeout_s,
            count=lambda: meter.figures(),  # noqa: PLW0108 (it is made last)
        )
        lease_lists = LeaseLists(registry, links, settings.kestrel_command_timeout_s)
        peers = PeerWorkers(links, settings.kestrel_command_timeout_s)

        # Use cases: enqueue
        known = KnownQueues(kestrel, catalog, turns)
        quota = Quota(kestrel, known, settings.max_queues)
        deleted = kestrel.fanout.deleted = DeletedSubscriptions(control)
        holding = HoldingQueues(kestrel, namespace, context.boot_id)
        holding.generation = deleted.generation
        ordered = OrderedQueues()
        publisher = Publisher(kestrel, quota, holding, ordered)
        idempotency = shared_by_workers(settings, context.run_dir, context.boot_id)

        # Use cases: next, batches, streams
        moves = Moves(kestrel, catalog, holding, tasks, max_attempts=settings.max_attempts)
        pauses = Pauses(control, catalog, poll_limits)
        cap_link = CapLink(context.run_dir)
        caps = Caps(cap_link, catalog)
        receiver = Receiver(
            kestrel, registry, moves, quota, tasks, poll_limits=poll_limits, pauses=pauses, caps=caps, turns=turns
        )
        batches = BatchReceiver(
            receiver, registry, moves, tasks, pauses=pauses, caps=caps, turns=turns, ordered=ordered
        )
        preferred = PreferredReceiver(
            kestrel, receiver, quota, registry.limits, tasks, poll_limits=poll_limits, pauses=pauses, caps=caps
        )
        streams = OpenStreams(registry, moves.attempts)

        # Use cases: delayed jobs, queues, subscriptions, dead letters
        OwnDelays(control, holding, tasks)
        mover = HeldJobMover(kestrel, catalog, quota, holding)
        delayed_jobs = DelayedJobs(kestrel.each_member, holding, mover)
        ages = HeadAges(kestrel.each_member, lambda key: catalog.owner_of(key) is not None, turns)
        queues = Queues(kestrel, catalog, lease_router, known, turns, moves.attempts, ages)
        kestrel.fanout.hold_elsewhere = peers.hold
        one_by_one = subscription_turns(cap_link)
        kestrel.fanout.turn = one_by_one.turn

        async def end_polls(key: str) -> None:
            receiver.end_polls(key)
            await peers.end_polls(key)

        subscriptions = Subscriptions(
            kestrel,
            kestrel.fanout,
            catalog,
            known,
            quota,
            ages=ages,
            deleted=deleted,
            turns=one_by_one,
            end_polls=end_polls,
            drop_leases=lease_router.drop_queue,
            peers_have=peers.have,
            limit=settings.kestrel_max_subscriptions,
        )
        dead_letters = DeadLetterAdmin(kestrel, ages)
        redrive = Redrive(kestrel, moves.dead_letters, quota, tasks)
        letters = DeadLetterJobs(
            kestrel.each_member,
            dead_letters,
            redrive,
            tasks,
            search_turns(cap_link),
            payload_bytes=settings.max_batch_bytes,
        )

        # Figures of queues
        gatherer = Gatherer(kestrel, ages, turns, settings.queue_figures_interval_s)
        largest = LargestQueues(
            catalog,
            turns,
            holding_keys=holding.keys,
            servers=lambda: len(kestrel.each_member()),
            limit=settings.max_queue_metrics,
        )
        if context.index == 0:
            gatherer.on_round(largest.add)
        history = History(lambda key: dead_key(catalog, key), turns)
        gatherer.on_round(history.add)

        # What runs beside the requests
        traces = _traces(settings, registry.leases, context.boot_id)
        moves.exhausted = traces.exhausted if traces is not None else None
        self._drain = Drain(receiver, streams, gatherer, registry, settings.grace_s)
        commands = WorkerCommands(receiver, kestrel.fanout, lease_router, lease_lists, on_lease=self._drain.changed)
        self._reloads = (
            KeyReload(settings.keys, admission, streams, tenanted),
            PolicyReload(settings.queues, namespace, catalog, known, caps, pauses, poll_limits, registry),
            SecretReload(settings, ids, replicas),
            kestrel.reload,
        )
        lifespan = Lifespan(
            tasks=tasks,
            drain=self._drain,
            kestrel=kestrel,
            control=control,
            cap_link=cap_link,
            ids=ids,
            registry=registry,
            router=lease_router,
            worker_server=WorkerServer(context.run_dir, context.boot_id, commands.execute),
            worker_links=links,
            replicas=replicas,
            unreachable=UnreachableQueues(kestrel, catalog, turns) if context.index == 0 else None,
            delayed_jobs=delayed_jobs,
            gatherer=gatherer,
            idempotency=idempotency,
            spans=traces.export if traces is not None else None,
            longest_lease_s=longest_lease(settings),
        )

        # HTTP: handlers, routes, and the edge around them
        specification = Specification(settings)
        page = Page(specification.json, on=settings.ui != "off")
        leases = Leases(lease_router, turns)
        pause_admin = PauseAdmin(pauses, queues)
        polls, acks = PollRequests(settings), PollAcks(leases)
        jobs = Jobs(receiver, queues, registry, polls=polls, acks=acks, turns=turns)
        self.routes = router(
            specification,
            admission,
            budget,
            catalog,
            enqueue=EnqueueJobs(publisher, IdempotentAnswer(idempotency), turns, settings),
            jobs=jobs,
            batches=BatchJobs(batches, jobs, registry, polls=polls, acks=acks),
            preferred=PreferredJobs(preferred, jobs, polls=polls, acks=acks),
            streams=Streams(
                receiver,
                preferred,
                streams,
                polls,
                registry=registry,
                caps=caps,
                tasks=tasks,
                turns=turns,
                settings=settings,
            ),
            leases=leases,
            pauses=pause_admin,
            queues=QueueAdmin(
                queues, None if tenanted else holding, subscriptions, pause_admin, dead_letters, redrive, turns
            ),
            details=QueueDetails(settings, catalog, lease_lists),
            letters=DeadLetterHandlers(letters),
            subscriptions=SubscriptionAdmin(subscriptions, pause_admin),
            health=HealthHandlers(specification, lambda: kestrel.available, lambda: receiver.draining),
            backends=Backends(kestrel, holding.keys),
            metrics=Metrics(
                lease_router.figures,
                settings.workers,
                turns,
                BrokerText(settings.data, kestrel.storage_stats) if context.worker_socket else None,
            ),
            webhook=Webhook(settings.webhook_origins),
            info=Info(settings, kestrel, page),
            page=page,
            page_data=PageData(
                settings, specification, gatherer, FigureRows(catalog, history, pauses, publisher.full), turns
            ),
        )
        self.routes.router.lifespan_context = lifespan.run
        self._replica_endpoint = ReplicaEndpoint(replicas, budget, lease_router.receive) if replicas else None
        self._edge = Edge(
            self._with_replicas(self.routes.serve),
            Guard(settings),
            self._drain.changed,
            gate=budget.gate,
            root_path=settings.root_path,
            expected_level=logs.LEVELS[settings.log_expected],
            cors=Cors(settings.allowed_origins) if settings.allowed_origins else None,
            trace=traces.of if traces is not None else None,
        )
        self.handle = self._edge.handle
        meter = Meter(
            context.index,
            kestrel=kestrel,
            registry=registry,
            forwarding=lease_router.statistics,
            receiver=receiver,
            streams=streams,
            moves=moves,
            publisher=publisher,
            pauses=pauses,
            mover=mover,
            delayed_jobs=delayed_jobs,
            traffic=self._edge.traffic,
            routes=self.routes.names,
            queues=lambda: largest.table,
            shares={
                "waiters": poll_limits.shares,
                "leases": registry.limits.shares,
                "lease_bytes": registry.limits.bytes,
                "buffer_bytes": budget.bytes,
                "connections": budget.connections,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same for any ASGI server, such as uvicorn."""
        if scope["type"] != "http":
            await self.routes.router(scope, receive, send)
            return
        request = AsgiRequest(scope, receive, send)
        try:
            await self._edge.handle(request, self._with_replicas(self.routes.through(scope, receive, send)))
        finally:
            request.close()

    def _with_replicas(self, serve: Serve) -> Serve:
        return self._replica_endpoint.beside(serve) if self._replica_endpoint is not None else serve

    def begin_drain(self) -> None:
        """The gateway is no longer ready: waiting polls are answered, and no job is delivered."""
        self._drain.begin()

    async def drained(self) -> None:
        """Returns when no consumer holds a lease and no settlement is in progress. Does not wait for delayed nacks."""
        await self._drain.ended()

    async def reload(self) -> None:
        """Reads again the files that may change at run time. A file with mistakes is logged and changes nothing."""
        await reload_all(self._reloads)


def _traces(settings: Settings, leases: KnownLeases, boot_id: str) -> Traces | None:
    """None without traces: then nothing of OpenTelemetry is imported."""
    if settings.traces == "off":
        return None
    from gateway.traces.traces import Traces  # noqa: PLC0415 (an optional dependency)

    return Traces(leases, boot_id)


def create_app(settings: Settings, context: WorkerContext) -> Gateway:
    """A worker's application. Nothing is connected before its lifespan starts."""
    return Gateway(settings, context)
