"""The table of paths. A test compares it with openapi.yaml. The busiest paths come first."""

from __future__ import annotations

import re
from typing import Final, NoReturn

from gateway.api.access.admission import Admission
from gateway.api.access.budget import Budget
from gateway.api.context import RequestContext
from gateway.api.exchange import Handler, Operation, Resource
from gateway.api.handlers.backends import Backends
from gateway.api.handlers.batches import BatchJobs
from gateway.api.handlers.dead_letters import DeadLetterHandlers
from gateway.api.handlers.enqueue import EnqueueJobs
from gateway.api.handlers.health import HealthHandlers
from gateway.api.handlers.info import Info
from gateway.api.handlers.jobs import Jobs
from gateway.api.handlers.leases import Leases
from gateway.api.handlers.page import Page
from gateway.api.handlers.page_data import PageData
from gateway.api.handlers.pauses import PauseAdmin
from gateway.api.handlers.preferred import PreferredJobs
from gateway.api.handlers.queue_details import QueueDetails
from gateway.api.handlers.queues import QueueAdmin
from gateway.api.handlers.streams import Streams
from gateway.api.handlers.subscriptions import SubscriptionAdmin
from gateway.api.handlers.webhook import Webhook
from gateway.api.metrics.exposition import Metrics
from gateway.api.request.hints import Paths
from gateway.api.route_table import Route, RouteTable
from gateway.api.specification import OperationSpec, Specification
from gateway.config.keys import Scope
from gateway.delivery.queues.catalog import Catalog
from gateway.errors import NotFound

_BELOW_SUBSCRIPTION: Final = re.compile(r"(/queues/[^/+]+)/subscriptions/([^/+]+)(/.+)")
"""For clients that cannot send a `+`."""

_FIGURES: Final = tuple(each.value for each in (Scope.OBSERVE, Scope.ADMIN, Scope.OPERATOR))
"""The scopes of `listQueues`."""


def router(
    specification: Specification,
    admission: Admission,
    budget: Budget,
    catalog: Catalog,
    *,
    enqueue: EnqueueJobs,
    jobs: Jobs,
    batches: BatchJobs,
    preferred: PreferredJobs,
    streams: Streams,
    leases: Leases,
    queues: QueueAdmin,
    subscriptions: SubscriptionAdmin,
    pauses: PauseAdmin,
    details: QueueDetails,
    letters: DeadLetterHandlers,
    health: HealthHandlers,
    backends: Backends,
    metrics: Metrics,
    webhook: Webhook,
    info: Info,
    page: Page,
    page_data: PageData,
) -> RouteTable:
    """Every path of the contract, and the page's. Raises NotFound for other paths."""

    def run(operation_id: str, handler: Handler) -> Operation:
        return Operation(specification.operation(operation_id), handler, admission, budget, catalog)

    def own(operation_id: str, handler: Handler, *scopes: str) -> Operation:
        """An operation of the page, which is not part of the contract. Without scopes it needs no key."""
        operation = {
            "operationId": operation_id,
            "security": [{"key": [scope]} for scope in scopes],
            "x-any-query": True,
        }
        return Operation(OperationSpec({}, operation), handler, admission, budget, catalog)

    routes = [
        Route("/queues/{queue}/next", Resource(head=False, get=run("nextJob", batches.next))),
        Route(
            "/queues/{queue}/jobs",
            Resource(post=run("enqueueJob", enqueue.one), options=run("checkWebhook", webhook.check)),
        ),
        Route("/queues/{queue}/jobs/batch", Resource(post=run("enqueueJobs", enqueue.many))),
        Route(
            "/queues/{queue}/events",
            Resource(post=run("enqueueEvent", enqueue.event), options=run("checkEventWebhook", webhook.check)),
        ),
        Route(
            "/next",
            Resource(head=False, get=run("nextOfQueues", preferred.next), post=run("leaseOfQueues", preferred.lease)),
        ),
        Route("/queues/{queue}/stream", Resource(head=False, get=run("streamJobs", streams.of_queue))),
        Route("/stream", Resource(head=False, get=run("streamQueues", streams.of_queues))),
        Route(
            "/queues/{queue}/leases",
            Resource(post=run("leaseJobs", batches.lease), get=run("listLeases", details.leases)),
        ),
        Route("/queues/{queue}/policy", Resource(get=run("getPolicy", details.policy))),
        Route("/leases/{lease}/ack", Resource(post=run("ackLease", leases.ack))),
        Route("/leases/{lease}/nack", Resource(post=run("nackLease", leases.nack))),
        Route("/leases/{lease}/reject", Resource(post=run("rejectLease", leases.reject))),
        Route("/leases/{lease}/extend", Resource(post=run("extendLease", leases.extend))),
        Route("/leases/{lease}/settle", Resource(post=run("settleLease", leases.settle_batch))),
        Route("/leases/settle", Resource(post=run("settleLeases", leases.settle))),
        Route("/leases/{lease}", Resource(get=run("inspectLease", leases.inspect))),
        Route("/queues/{queue}/peek", Resource(get=run("peekJob", jobs.peek))),
        Route("/queues/{queue}/redrive", Resource(post=run("redriveQueue", queues.redrive))),
        Route(
            "/queues/{queue}/dead-letters",
            Resource(
                get=run("getDeadLetters", queues.dead_letters),
                delete=run("deleteDeadLetters", queues.delete_dead_letters),
            ),
        ),
        Route("/queues/{queue}/dead-letters/jobs", Resource(get=run("listDeadLetters", letters.list))),
        Route("/queues/{queue}/dead-letters/jobs/{letter}", Resource(delete=run("deleteDeadLetter", letters.delete))),
        Route(
            "/queues/{queue}/dead-letters/jobs/{letter}/redrive",
            Resource(post=run("redriveDeadLetter", letters.redrive)),
        ),
        Route("/queues/{queue}/dead-letters/peek", Resource(get=run("peekDeadLetter", queues.peek_dead_letter))),
        Route("/queues/{queue}/subscriptions", Resource(get=run("listSubscriptions", subscriptions.list))),
        Route(
            "/queues/{queue}/subscriptions/{child}",
            Resource(
                get=run("getSubscription", subscriptions.get),
                put=run("createSubscription", subscriptions.create),
                delete=run("deleteSubscription", subscriptions.delete),
            ),
        ),
        Route(
            "/queues/{queue}/pause",
            Resource(put=run("pauseQueue", pauses.begin), delete=run("resumeQueue", pauses.end)),
        ),
        Route("/queues/{queue}/flush", Resource(post=run("flushQueue", queues.flush))),
        Route(
            "/queues/{queue}",
            Resource(get=run("getQueue", queues.get), delete=run("deleteQueue", queues.delete)),
        ),
        Route("/queues", Resource(get=run("listQueues", queues.list))),
        Route("/backends", Resource(get=run("listBackends", backends.list))),
        Route("/backends/{backend}/status", Resource(put=run("setBackendStatus", backends.set_status))),
        Route("/metrics", Resource(get=run("metrics", metrics.scrape))),
        Route("/livez", Resource(get=run("livez", health.livez), options=run("livez", health.probe_live))),
        Route("/readyz", Resource(get=run("readyz", health.readyz), options=run("readyz", health.probe_ready))),
        Route("/", Resource(get=run("getInfo", info.show), options=run("readyz", health.probe_ready))),
        Route("/problems/{code}", Resource(get=run("explainProblem", health.explain_problem))),
        Route("/openapi.yaml", Resource(get=run("contractYaml", health.contract_yaml))),
        Route("/openapi.json", Resource(get=run("contractJson", health.contract_json))),
    ]
    pages = [
        Route("/ui/", Resource(get=own("page", page.index))),
        Route("/ui/session", Resource(get=own("pageSession", page_data.session, *(each.value for each in Scope)))),
        Route("/ui/feed", Resource(head=False, get=own("pageFeed", page_data.feed, *_FIGURES))),
        Route("/ui/history", Resource(get=own("pageHistory", page_data.history, *_FIGURES))),
        Route("/ui/{file}", Resource(get=own("page", page.file))),
        Route("/ui", Resource(get=own("page", page.redirect))),
        Route("/docs", Resource(get=own("reference", page.docs))),
        Route("/docs/", Resource(get=own("reference", page.docs_redirect))),
    ]
    paths = Paths({route.path: route.resource.methods for route in routes})

    def unknown(context: RequestContext) -> NoReturn:
        root = context.url_root
        hint = paths.near(context.request.method, context.request.path, root)
        raise NotFound(
            f"there is nothing at this path; {hint + ' The' if hint else 'the'} contract is at {root}/openapi.yaml"
        )

    return RouteTable(routes + pages * page.on, unknown, _other_path)


def _other_path(path: str) -> str | None:
    """The path of `{queue}+{child}`, if the path is below that of a subscription."""
    below = _BELOW_SUBSCRIPTION.fullmatch(path)
    return None if below is None else f"{below[1]}+{below[2]}{below[3]}"
