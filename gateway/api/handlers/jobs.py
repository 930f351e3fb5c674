"""Next and peek over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.api.exchange import JSON, NO_STORE, Answer, Call, json_answer
from gateway.api.handlers.acks import PollAcks, note_acked
from gateway.api.request.polls import PollRequest, PollRequests
from gateway.api.response.rendering import render, render_leased
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.queues.management import Queues
from gateway.delivery.receive import Delivery, Hold, Receiver
from gateway.fairness.turns import Turns
from gateway.leases.lease import Lease
from gateway.leases.registry import Registry
from gateway.request import Headers


class Jobs:
    """Handlers of the paths that deliver one job."""

    def __init__(
        self,
        receiver: Receiver,
        queues: Queues,
        registry: Registry,
        *,
        polls: PollRequests,
        acks: PollAcks,
        turns: Turns,
    ) -> None:
        self._receiver = receiver
        self._queues = queues
        self._registry = registry
        self._polls = polls
        self._acks = acks
        self._turns = turns

    async def next(self, call: Call) -> Answer:
        poll = self._polls.of_query(call)
        queue = call.queue()
        delivery = await self._take(call, queue, poll)
        if isinstance(delivery, Delivery):
            return self.delivered(call, queue, delivery, poll.preference)
        return Answer(204, headers=[NO_STORE, *held_headers(delivery), *poll.preference])

    async def lease(self, call: Call, wanted: Mapping[str, Any]) -> Answer:
        """Like `next`, with the parameters in the body, and a body in every answer: some clients cannot read a 204."""
        queue = call.queue()
        delivery = await self._take(call, queue, self._polls.of_body(wanted))
        if not isinstance(delivery, Delivery):
            return json_answer({"jobs": []}, headers=held_headers(delivery))
        delivery.lease.holder = call.caller.name
        note_delivery(call, queue, delivery)
        with self.given_back_on_error(delivery.lease):
            body = render_leased(delivery.job, queue, delivery.lease, root=call.root)
        return self.carrying(delivery.lease, body, [JSON, NO_STORE])

    async def _take(self, call: Call, queue: Queue, poll: PollRequest) -> Delivery | Hold | None:
        ahead = await self._acks.ahead(call, poll) if poll.acks else None
        try:
            delivery = call.result(await self._receiver.next(queue, poll.options(call), ahead))
        finally:
            note_acked(call, ahead)
        if isinstance(delivery, Delivery):
            call.context.lease_acked |= poll.at_most_once
        return delivery

    async def peek(self, call: Call) -> Answer:
        queue = call.queue()
        await self._turns.next(queue.tenant)  # the job may be large; one turn of the loop reads one
        job = call.result(await self._queues.peek(queue))
        body, headers = render(job, queue, job.attempt, accept=call.accept, raw=_raw(call))
        return Answer(200, body, headers)

    def delivered(self, call: Call, queue: Queue, delivery: Delivery, preference: Headers) -> Answer:
        lease = delivery.lease
        lease.holder = call.caller.name
        note_delivery(call, queue, delivery)
        try:
            body, headers = render(
                delivery.job, queue, lease.attempt, lease, accept=call.accept, raw=_raw(call), root=call.root
            )
        except BaseException:
            self._registry.give_back(lease)
            raise
        return self.carrying(lease, body, headers + preference)

    @contextlib.contextmanager
    def given_back_on_error(self, lease: Lease) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._registry.give_back(lease)
            raise

    def carrying(self, lease: Lease, body: bytes, headers: Headers) -> Answer:
        """The answer with a leased job. The job is given back if the answer does not reach the client."""

        def sent(reached: bool) -> None:
            if not reached:
                self._registry.give_back(lease)

        return Answer(200, body, headers, on_sent=sent)


def note_delivery(call: Call, queue: Queue, delivery: Delivery) -> None:
    """Notes for the log line and the trace which job is delivered."""
    lease = delivery.lease
    call.context.concerns(lease.queue, lease.job_id, len(delivery.job.stored), delivery.waited_s)
    if call.context.trace is not None:
        call.context.trace.delivered(queue, [(delivery.job, lease)])


def held_headers(hold: Hold | None) -> Headers:
    """The headers that say why the queue delivers nothing, if it may have jobs."""
    if hold is None:
        return []
    return [(b"queue-paused", b"true") if hold is Hold.PAUSED else (b"queue-limited", hold.value.encode())]


def _raw(call: Call) -> bool:
    return bool(call.query["format"] == "raw")
