"""The composition root: builds the application of one worker from its parts, and shuts it down in order.

The order of the shutdown; each step relies on the ones before it:
1. waiting polls are answered empty and no job is delivered; 2. leases are settled until none is left or the grace ends;
3. requests in progress finish (the server waits for them); 4. commands of other workers are no longer accepted; 5. jobs
under lease go back to their queues; 6. the connections to Kestrel close; 7. the file of idempotency keys closes; 8. the
last spans are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from gateway.api.access.admission import Admission
from gateway.api.access.budget import Budget
from gateway.api.access.guard import Guard
from gateway.api.asgi import AsgiRequest
from gateway.api.context import Serve
from gateway.api.cors import Cors
from gateway.api.edge import Edge
from gateway.api.handlers.backends import Backends
from gateway.api.handlers.batches import BatchJobs
from gateway.api.handlers.dead_letters import DeadLetterHandlers
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
from gateway.api.routes import router
from gateway.api.specification import Specification, longest_lease
from gateway.common import logs
from gateway.common.shares import WHOLE, Shares
from gateway.config import policies
from gateway.config.cluster_secret import secrets_of
from gateway.config.keys import Keys, load
from gateway.config.toml_file import Mistake, MistakesError
from gateway.delivery.batches import BatchReceiver
from gateway.delivery.caps.caps import Caps
from gateway.delivery.caps.link import CapLink
from gateway.delivery.caps.turn import GatewayTurns
from gateway.delivery.control.control import Control
from gateway.delivery.dead_letters.inspection import DeadLetterAdmin
from gateway.delivery.dead_letters.letters import TURN_S, DeadLetterJobs
from gateway.delivery.dead_letters.redrive import Redrive
from gateway.delivery.dead_letters.store import dead_key
from gateway.delivery.delay.holding import HoldingQueues
from gateway.delivery.delay.onward import Onward
from gateway.delivery.delay.own_delays import OwnDelays
from gateway.delivery.delay.watch import DelayedJobs
from gateway.delivery.figures.gatherer import Gatherer
from gateway.delivery.figures.head_ages import HeadAges
from gateway.delivery.figures.history import History
from gateway.delivery.figures.largest import LargestQueues
from gateway.delivery.idempotency import ledger_file
from gateway.delivery.idempotency.idempotent_enqueue import Idempotency
from gateway.delivery.idempotency.ledger import Ledger
from gateway.delivery.moves import Moves
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
from gateway.delivery.subscriptions.subscriptions import Subscriptions
from gateway.errors import GatewayError
from gateway.fairness.loop_time import LoopTime
from gateway.fairness.turns import Turns
from gateway.forwarding.commands import LeaseCommand, Result, Verb, WorkerFigures
from gateway.forwarding.lease_lists import LeaseLists
from gateway.forwarding.replicas import Replicas
from gateway.forwarding.router import LeaseRouter
from gateway.forwarding.seal import Seal, derived
from gateway.forwarding.workers import WorkerLinks, WorkerServer, is_alive
from gateway.kestrel.client import Kestrel
from gateway.leases.ids import LeaseIds
from gateway.leases.known import KnownLeases
from gateway.leases.registry import Registry
from gateway.names.namespace import Namespace
from gateway.settings import Settings, SettingsError

if TYPE_CHECKING:  # it imports an optional dependency
    from gateway.traces.traces import Traces

log = logging.getLogger(__name__)


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
        self._settings = settings
        self._tenanted = context.tenanted
        self._index = context.index
        self._grace_ends = math.inf  # monotonic; known once the drain has begun
        share = settings.tenant_share if context.tenanted else WHOLE
        self._admission = Admission(self._read_keys() if settings.keys is not None else None)
        self._tasks = asyncio.TaskGroup()
        self.buffers = Shares(settings.max_buffer_bytes, share)
        self.loop_time = LoopTime(tenanted=context.tenanted)
        turns = Turns(self.loop_time)
        budget = Budget(self.buffers, Shares(settings.max_connections, share), turns)
        self._namespace = namespace = Namespace(settings.namespace, self._tenanted)
        self._kestrel = Kestrel(
            context.kestrel,
            settings,
            settings.kestrel_file,
            share=share,
            tenant_of=lambda key: namespace.tenant_of(key) or "",
            loop_time=self.loop_time,
            owns=lambda key: self._catalog.owner_of(key) is not None,
            worker_sockets={context.kestrel[0]: context.worker_socket} if context.worker_socket else {},
        )
        self._control = Control(self._kestrel.each_member, namespace.internal_key("control"), eager=context.index == 0)
        self._ids = LeaseIds(
            _lease_keys(context.cluster_secrets) or [context.lease_key], context.boot_id, settings.instance
        )
        self._registry = Registry(
            self._ids,
            self._tasks,
            limit=settings.max_leases,
            tenant_limit=settings.max_tenant_leases,
            limit_bytes=settings.max_lease_bytes,
            longest_s=longest_lease(settings) if settings.kestrel_open_timeout_s else 0.0,
            memory_s=settings.settled_memory_s,
            memory_limit=settings.max_settled,
            share=share,
        )
        self._worker_links = WorkerLinks(context.run_dir, context.boot_id)
        self._replicas = _replicas(settings, context)
        self._lease_router = LeaseRouter(
            self._ids,
            self._registry,
            self._worker_links,
            self._replicas,
            turns=turns,
            limit_s=2 * settings.kestrel_command_timeout_s,
            count=self._figures,
        )
        self._lease_lists = LeaseLists(self._registry, self._worker_links, settings.kestrel_command_timeout_s)
        self._peers = PeerWorkers(self._worker_links, settings.kestrel_command_timeout_s)
        self._worker_server = WorkerServer(context.run_dir, context.boot_id, self._execute)
        self._catalog = Catalog(self._namespace, policies.load(settings.queues, self._namespace))
        self._known = KnownQueues(self._kestrel, self._catalog, turns)
        quota = Quota(self._kestrel, self._known, settings.max_queues)
        holding = HoldingQueues(self._kestrel, namespace, context.boot_id)
        OwnDelays(self._control, holding, self._tasks)
        moves = Moves(self._kestrel, self._catalog, holding, self._tasks, max_attempts=settings.max_attempts)
        poll_limits = PollLimits(
            settings.max_waiters,
            tenant_limit=settings.max_tenant_waiters,
            queue_limit=settings.max_queue_waiters,
            share=share,
        )
        self._pauses = Pauses(self._control, self._catalog, poll_limits)
        self._cap_link = CapLink(context.run_dir)
        self._poll_limits = poll_limits
        self._caps = Caps(self._cap_link, self._catalog)
        self._receiver = Receiver(
            self._kestrel,
            self._registry,
            moves,
            quota,
            self._tasks,
            poll_limits=poll_limits,
            pauses=self._pauses,
            caps=self._caps,
            turns=turns,
        )
        batches = BatchReceiver(
            self._receiver,
            self._registry,
            moves,
            self._tasks,
            pauses=self._pauses,
            caps=self._caps,
            turns=turns,
        )
        preferred = PreferredReceiver(
            self._kestrel,
            self._receiver,
            quota,
            self._registry.limits,
            self._tasks,
            poll_limits=poll_limits,
            pauses=self._pauses,
            caps=self._caps,
        )
        self._streams = OpenStreams(self._registry, moves.attempts)
        self._unreachable = UnreachableQueues(self._kestrel, self._catalog, turns)
        queues = Queues(self._kestrel, self._catalog, self._lease_router, self._known, turns, moves.attempts)
        deleted = self._kestrel.fanout.deleted = DeletedSubscriptions(self._control)
        subscriptions = Subscriptions(
            self._kestrel,
            self._kestrel.fanout,
            self._catalog,
            self._known,
            quota,
            deleted=deleted,
            end_polls=self._end_polls,
            drop_leases=self._lease_router.drop_queue,
            peers_have=self._peers.have,
            limit=settings.kestrel_max_subscriptions,
        )
        self._kestrel.fanout.hold_elsewhere = self._peers.hold
        self._idempotency = _idempotency(settings, context)
        pauses = PauseAdmin(self._pauses, queues)
        specification = Specification(settings)
        page = Page(specification.json, on=settings.ui != "off")
        leases = Leases(self._lease_router, turns)
        onward = Onward(self._kestrel, self._catalog, quota, holding)
        self._delayed_jobs = DelayedJobs(self._kestrel.each_member, holding, onward)
        publisher = Publisher(self._kestrel, quota, holding)
        self._gatherer = Gatherer(self._kestrel, turns, settings.queue_figures_interval_s)
        self._largest = LargestQueues(
            self._catalog,
            HeadAges(self._kestrel.each_member, turns),
            turns,
            holding_keys=holding.keys,
            servers=lambda: len(self._kestrel.each_member()),
            limit=settings.max_queue_metrics,
        )
        if context.index == 0:
            self._gatherer.on_round(self._largest.add)
        history = History(lambda key: dead_key(self._catalog, key))
        self._gatherer.on_round(history.add)
        dead_letters = DeadLetterAdmin(self._kestrel)
        redrive = Redrive(self._kestrel, moves.dead_letters, quota, self._tasks)
        jobs = Jobs(
            publisher,
            self._receiver,
            queues,
            leases,
            self._registry,
            once=IdempotentAnswer(self._idempotency),
            settings=settings,
            turns=turns,
        )
        self.routes = router(
            specification,
            self._admission,
            budget,
            self._catalog,
            jobs=jobs,
            batches=BatchJobs(batches, jobs, self._registry.batches),
            preferred=PreferredJobs(preferred, jobs),
            streams=Streams(
                self._receiver,
                preferred,
                self._streams,
                jobs,
                registry=self._registry,
                caps=self._caps,
                tasks=self._tasks,
                turns=turns,
                settings=settings,
            ),
            leases=leases,
            pauses=pauses,
            queues=QueueAdmin(
                queues, None if self._tenanted else holding, subscriptions, pauses, dead_letters, redrive, turns
            ),
            details=QueueDetails(settings, self._catalog, self._lease_lists),
            letters=DeadLetterHandlers(
                DeadLetterJobs(
                    self._kestrel.each_member,
                    dead_letters,
                    redrive,
                    self._tasks,
                    GatewayTurns(self._cap_link, "search ", TURN_S),
                    payload_bytes=settings.max_batch_bytes,
                )
            ),
            subscriptions=SubscriptionAdmin(subscriptions, pauses),
            health=HealthHandlers(specification, lambda: self._kestrel.available, lambda: self._receiver.draining),
            backends=Backends(self._kestrel, holding.keys),
            metrics=Metrics(
                self._lease_router.figures,
                settings.workers,
                turns,
                BrokerText(settings.data, self._kestrel.storage_stats) if context.worker_socket else None,
            ),
            webhook=Webhook(settings.webhook_origins),
            info=Info(settings, self._kestrel, page),
            page=page,
            page_data=PageData(
                settings,
                specification,
                self._gatherer,
                FigureRows(self._catalog, history, self._pauses, publisher.full),
                turns,
            ),
        )
        self.routes.router.lifespan_context = self._lifespan
        self._traces = _traces(settings, self._registry.leases, context.boot_id)
        self._changed = asyncio.Event()
        self._registry.leases.on_end(lambda _: self._changed.set())
        self._replica_endpoint = (
            ReplicaEndpoint(self._replicas, budget, self._lease_router.receive) if self._replicas else None
        )
        self._edge = Edge(
            self._with_replicas(self.routes.serve),
            Guard(settings),
            self._changed.set,
            gate=budget.gate,
            root_path=settings.root_path,
            expected_level=logs.LEVELS[settings.log_expected],
            cors=Cors(settings.allowed_origins) if settings.allowed_origins else None,
            trace=self._traces.of if self._traces is not None else None,
        )
        self._meter = Meter(
            context.index,
            kestrel=self._kestrel,
            registry=self._registry,
            forwarding=self._lease_router.statistics,
            receiver=self._receiver,
            moves=moves,
            publisher=publisher,
            pauses=self._pauses,
            onward=onward,
            delayed_jobs=self._delayed_jobs,
            traffic=self._edge.traffic,
            routes=self.routes.names,
            queues=lambda: self._largest.table,
            shares={
                "waiters": poll_limits.shares,
                "leases": self._registry.limits.shares,
                "lease_bytes": self._registry.limits.bytes,
                "buffer_bytes": budget.bytes,
                "connections": budget.connections,
            },
        )
        self.handle = self._edge.handle

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
        self._grace_ends = min(self._grace_ends, time.monotonic() + self._settings.grace_s)
        self._receiver.drain()
        self._streams.drain()
        self._gatherer.close()

    async def reload(self) -> None:
        """Reads again the files that may change at run time. A file with mistakes is logged and changes nothing.

        Requests in progress, waiting polls and leases continue.
        """
        for file in (self._reload_keys, self._reload_policies, self._reload_secrets, self._kestrel.reload):
            mistakes = await _mistakes(file)
            for mistake in mistakes:
                log.error("reload: %s", mistake)
            if mistakes:
                log.error("reload: the file has mistakes; the previous content stays in use")

    async def _reload_keys(self) -> None:
        """Raises MistakesError."""
        if self._settings.keys is not None:
            keys = await asyncio.to_thread(self._read_keys)
            self._admission.replace(keys)
            log.info("reload: %d keys", len(keys))

    def _read_keys(self) -> Keys:
        """The keys in the file. Raises MistakesError, also if they would change whether there are tenants."""
        path = self._settings.keys
        assert path is not None
        keys = load(path)
        if keys.tenanted is not None and keys.tenanted != self._tenanted:
            what = "keys had a tenant" if self._tenanted else "keys had no tenant"
            raise MistakesError([Mistake(str(path), 0, f"{what} at the start; restart the gateway to change that")])
        return keys

    async def _reload_policies(self) -> None:
        """Raises MistakesError."""
        if self._settings.queues is not None:
            self._catalog.apply(await asyncio.to_thread(policies.load, self._settings.queues, self._namespace))
            self._caps.policies_changed(self._poll_limits.queues, self._registry.leases.open())
            self._pauses.policies_changed()
            self._known.refresh(time.monotonic())  # a queue may have another key
            log.info("reload: policies of %s", self._settings.queues)

    async def _reload_secrets(self) -> None:
        """From now on all replicas settle leases with the new secrets. Raises MistakesError."""
        path = self._settings.cluster_secret_file
        if path is None or self._replicas is None:
            return
        try:
            secrets = await asyncio.to_thread(secrets_of, self._settings)
        except SettingsError as exc:
            raise MistakesError([Mistake(str(path), 0, str(exc))]) from exc
        self._ids.replace(_lease_keys(secrets))
        self._replicas.replace(secrets)
        log.info("reload: %d secret(s) of the cluster", len(secrets))

    async def drained(self) -> None:
        """Returns when no consumer holds a lease and no settlement is in progress. Does not wait for delayed nacks."""
        while self._held():
            self._changed.clear()
            await self._changed.wait()

    def _held(self) -> int:
        figures = self._registry.leases.statistics()
        return figures.open - figures.delayed

    def _figures(self) -> WorkerFigures:
        return self._meter.figures()

    async def _end_polls(self, key: str) -> None:
        """Ends the polls of the queue in every worker."""
        self._receiver.end_polls(key)
        await self._peers.end_polls(key)

    async def _execute(self, command: LeaseCommand) -> Result:
        match command.verb:
            case Verb.END_POLLS:
                self._receiver.end_polls(command.subject)
                return 0
            case Verb.HOLD_PUTS:
                await self._kestrel.fanout.hold(command.subject, command.length_s)
                return 0
            case Verb.ENSURE_CHILD:
                try:
                    return await self._kestrel.fanout.ensure(command.subject)
                except GatewayError as exc:
                    return exc
            case Verb.LIST_LEASES:
                return self._lease_lists.own(command.subject)
            case Verb.RELEASE_PUTS:
                self._kestrel.fanout.release(command.subject)
                return 0
        try:
            return await self._lease_router.execute(command)
        finally:
            self._changed.set()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Any) -> AsyncIterator[None]:
        async with self._tasks:
            if self._traces is not None:
                self._traces.export.start()
            await self._kestrel.start()
            await self._control.start()
            await self._cap_link.start()
            await self._worker_server.start()
            watching = self._tasks.create_task(self._unreachable.watch()) if self._index == 0 else None
            moving = self._tasks.create_task(self._delayed_jobs.run())
            gathering = self._tasks.create_task(self._gatherer.run())
            loop = asyncio.get_running_loop()
            loop.call_later(longest_lease(self._settings), self._ids.refuse_old_form)
            try:
                yield
            finally:
                self.begin_drain()
                gathering.cancel()
                self._largest.close()
                if watching is not None:
                    watching.cancel()
                self._delayed_jobs.close()
                await moving
                await self._worker_server.close()
                await self._worker_links.close()
                if self._replicas is not None:
                    self._replicas.close()
                self._registry.close()
                log.info("leases: %s", self._registry.leases.statistics())
                log.info("lease commands: %s", self._lease_router.statistics)
                await self._control.close()
                await self._cap_link.close()
                await self._kestrel.close()
                await self._idempotency.close()
                if self._traces is not None:
                    await self._traces.export.close(self._grace_ends - time.monotonic())


def _lease_keys(cluster_secrets: Sequence[bytes]) -> list[bytes]:
    return [derived(secret, "lease ids") for secret in cluster_secrets]


def _replicas(settings: Settings, context: WorkerContext) -> Replicas | None:
    if not context.cluster_secrets:
        return None
    return Replicas(Seal(context.cluster_secrets), _trust(settings))


def _trust(settings: Settings) -> ssl.SSLContext:
    """How this replica and the others authenticate each other over https: with the files that it serves with."""
    trust = ssl.create_default_context(cafile=settings.ssl_ca_certs)
    if settings.ssl_certfile is not None:
        trust.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_keyfile_password or None)
    return trust


def _traces(settings: Settings, leases: KnownLeases, boot_id: str) -> Traces | None:
    """None without traces: then nothing of OpenTelemetry is imported."""
    if settings.traces == "off":
        return None
    from gateway.traces.traces import Traces  # noqa: PLC0415 (an optional dependency)

    return Traces(leases, boot_id)


def _idempotency(settings: Settings, context: WorkerContext) -> Idempotency:
    """The idempotency keys, which all workers of the data directory share."""
    ledger = Ledger(
        settings.data / ledger_file.NAME,
        context.boot_id,
        lambda boot_id: is_alive(context.run_dir, boot_id),
        window_s=settings.idempotency_window_s,
        limit=settings.max_idempotency_keys,
        synced=settings.fsync == "always",
    )
    # A put may connect first, and is sent once more if the policy allows duplicates.
    hold_s = 2 * (settings.kestrel_connect_timeout_s + settings.kestrel_command_timeout_s) + 1
    return Idempotency(ledger, wait_s=settings.kestrel_command_timeout_s, hold_s=hold_s)


async def _mistakes(read: Callable[[], Awaitable[None]]) -> Sequence[Mistake]:
    """The mistakes in the file that `read` reads."""
    try:
        await read()
    except MistakesError as exc:
        return exc.mistakes
    return ()


def create_app(settings: Settings, context: WorkerContext) -> Gateway:
    """A worker's application. Nothing is connected before its lifespan starts."""
    return Gateway(settings, context)
