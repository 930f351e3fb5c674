"""Managing queues over HTTP."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from gateway.api.exchange import Answer, Call, json_answer
from gateway.api.handlers.pauses import PauseAdmin
from gateway.api.response.listing import Listing
from gateway.api.response.rendering import render
from gateway.common.counted import counted
from gateway.delivery.dead_letters.inspection import DeadLetterAdmin
from gateway.delivery.dead_letters.redrive import Redrive, RedriveOrder
from gateway.delivery.delay.holding import HoldingQueues
from gateway.delivery.queues.management import QueueInfo, Queues
from gateway.delivery.subscriptions.subscriptions import Subscriptions
from gateway.envelope.rewrite import DeadReason
from gateway.errors import BackendUnavailable
from gateway.fairness.turns import Turns
from gateway.queue_stats import QueueStats

DEFAULT_REDRIVE = 1000
WORK_QUEUES = 500
"""Listing this many queues is as much work as one more request."""


class QueueAdmin:
    """Handlers of `/queues` and `/queues/{queue}`. holding: None if it may not be told whether jobs are delayed."""

    def __init__(  # noqa: PLR0917 (one caller)
        self,
        queues: Queues,
        holding: HoldingQueues | None,
        subscriptions: Subscriptions,
        pauses: PauseAdmin,
        dead_letters: DeadLetterAdmin,
        redrive: Redrive,
        turns: Turns,
    ) -> None:
        self._queues = queues
        self._holding = holding
        self._subscriptions = subscriptions
        self._pauses = pauses
        self._dead_letters = dead_letters
        self._redrive = redrive
        self._turns = turns

    async def list(self, call: Call) -> Answer:
        listing = Listing(call.query["filter"], call.query["sort"], call.query["limit"], call.query["cursor"])
        tenant, may_use = call.tenant, call.caller.may_use
        at_s = time.time()
        queues = [each async for some in self._queues.list(tenant, at_s) for each in call.result(some)]
        call.worked(len(queues), WORK_QUEUES)
        allowed = (each for each in queues if may_use(each.queue))
        page, cursor = await listing.page(allowed, self._turns, tenant, at_s=at_s)
        of = f"tenant={call.query['tenant']}&" if call.query["tenant"] else ""
        next_page = f"{call.root}/queues?{of}{listing.link(cursor)}" if cursor else None
        shown = await self._turns.all((self._shown(each, tenant) for each in page), tenant)
        return json_answer({"queues": shown, "next": next_page})

    def _shown(self, queue: QueueInfo, tenant: str) -> dict[str, Any]:
        return asdict(queue) | (self._pauses.member_of(tenant, queue.queue) if queue.reachable else {})

    async def get(self, call: Call) -> Answer:
        answer = await self._figures(call)
        coverage = call.context.coverage
        if call.query["partial"] == "error" and coverage is not None and coverage.partial:
            answered = f"{coverage.asked} of {counted(coverage.total, 'Kestrel server')} answered"
            raise BackendUnavailable(f"{answered}; try again")
        return answer

    async def _figures(self, call: Call) -> Answer:
        missing = QueueStats() if call.query["missing"] == "zero" else None
        queue, servers = call.result(await self._queues.get(call.queue(), missing=missing))
        shown = asdict(queue) | self._pauses.member(call.queue()) | await self._delayed(queue)
        if call.query["detail"] != "servers":
            return json_answer(shown)
        named = [(name if call.caller.sees_deployment else f"server-{n}") for n, name in enumerate(sorted(servers), 1)]
        by_server = [
            {"server": server, **asdict(servers[name])} for server, name in zip(named, sorted(servers), strict=True)
        ]
        return json_answer(shown | {"servers": by_server})

    async def _delayed(self, queue: QueueInfo) -> dict[str, Any]:
        """`delayed: 0` if no job of any queue is delayed: none is held, and none is set aside on this queue. Kestrel
        cannot tell how many are for one queue.
        """
        if self._holding is None or queue.open_reads:
            return {}
        try:
            return {"delayed": 0} if await self._holding.empty() else {}
        except BackendUnavailable:
            return {}

    async def flush(self, call: Call) -> Answer:
        call.result(await self._queues.flush(call.queue()))
        return Answer(204)

    async def delete(self, call: Call) -> Answer:
        queue = call.queue()
        deleted = await (self._subscriptions if queue.is_child else self._queues).delete(queue)
        leases_ended = call.result(deleted)
        await self._pauses.forget(queue)
        return json_answer({"queue": queue.name, "leases_ended": leases_ended})

    async def dead_letters(self, call: Call) -> Answer:
        return json_answer(call.result(await self._dead_letters.get(call.queue())))

    async def peek_dead_letter(self, call: Call) -> Answer:
        """As the gateway's own object or as the event: a dead letter is always an event."""
        queue = call.queue()
        letter = call.result(await self._dead_letters.peek(queue))
        body, headers = render(letter, queue, letter.attempt, accept=call.accept)
        return Answer(200, body, headers)

    async def delete_dead_letters(self, call: Call) -> Answer:
        queue = call.queue()
        return json_answer({"queue": queue.name, "deleted": call.result(await self._dead_letters.delete(queue))})

    async def redrive(self, call: Call) -> Answer:
        body = await call.json()
        queue = call.queue()
        order = RedriveOrder(
            body.get("max", DEFAULT_REDRIVE),
            target=call.named(body["to"]) if "to" in body else None,
            reason=DeadReason(body["reason"]) if "reason" in body else None,
            rate=float(body.get("rate", 0)),
        )
        trace = call.context.trace
        on_job = trace.redrive(order.target or queue) if trace is not None else None
        return json_answer(call.result(await self._redrive.redrive(queue, order, on_job)))
