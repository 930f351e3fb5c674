"""Batches over HTTP: many jobs in one answer, under one lease."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Final

from gateway.api.exchange import NO_STORE, Answer, Call, json_answer
from gateway.api.handlers.acks import PollAcks, note_acked
from gateway.api.handlers.jobs import Jobs, held_headers
from gateway.api.request.polls import PollRequest, PollRequests
from gateway.api.response.rendering import render_batch
from gateway.delivery.batches import BatchDelivery, BatchReceiver
from gateway.delivery.filling_batch import BatchSize
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.receive import Hold
from gateway.errors import InvalidBody, InvalidParameter
from gateway.leases.registry import Registry
from gateway.request import Headers

BATCH_BYTES: Final = 8 << 20
"""The default of `max_bytes`."""
_WITHOUT_MAX: Final = "max_bytes: without max it has no effect; send max, too, or leave max_bytes out"


class BatchJobs:
    """Handlers of the paths that deliver jobs. jobs: those for one job, to which a request without `max` goes."""

    def __init__(
        self, receiver: BatchReceiver, jobs: Jobs, registry: Registry, *, polls: PollRequests, acks: PollAcks
    ) -> None:
        self._receiver = receiver
        self._jobs = jobs
        self._registry = registry
        self._polls = polls
        self._acks = acks

    def next(self, call: Call) -> Awaitable[Answer]:
        query = call.query
        return self._jobs.next(call) if query["max"] is None and query["max_bytes"] is None else self._next(call)

    async def lease(self, call: Call) -> Answer:
        wanted = await call.json()
        if "max" not in wanted:
            if "max_bytes" in wanted:
                raise InvalidBody(_WITHOUT_MAX)
            return await self._jobs.lease(call, wanted)
        queue = call.queue()
        found = await self._take(call, queue, _size(wanted), self._polls.of_body(wanted))
        if isinstance(found, BatchDelivery):
            return self._delivered(call, queue, found, "")
        return json_answer({"jobs": []}, headers=held_headers(found))

    async def _next(self, call: Call) -> Answer:
        poll = self._polls.of_query(call)
        query = call.query
        if query["max"] is None:
            raise InvalidParameter(_WITHOUT_MAX)
        if query["format"] is not None:
            raise InvalidParameter("format: raw is the form of one job; leave it out, or leave out max")
        queue = call.queue()
        found = await self._take(call, queue, BatchSize(query["max"], query["max_bytes"] or BATCH_BYTES), poll)
        if isinstance(found, BatchDelivery):
            return self._delivered(call, queue, found, call.accept, poll.preference)
        return Answer(204, headers=[NO_STORE, *held_headers(found), *poll.preference])

    async def _take(self, call: Call, queue: Queue, size: BatchSize, poll: PollRequest) -> BatchDelivery | Hold | None:
        ahead = await self._acks.ahead(call, poll)
        try:
            found = call.result(await self._receiver.next(queue, size, poll.options(call), ahead))
        finally:
            note_acked(call, ahead)
        if isinstance(found, BatchDelivery):
            call.context.lease_acked |= poll.at_most_once
        return found

    def _delivered(
        self, call: Call, queue: Queue, found: BatchDelivery, accept: str, preference: Headers | None = None
    ) -> Answer:
        """The answer with the batch. The jobs are given back if it does not reach the client."""
        batch = found.batch
        for lease in batch.leases:
            lease.holder = call.caller.name
        if call.context.trace is not None:
            call.context.trace.delivered(queue, list(zip(found.jobs, batch.leases, strict=True)))

        def sent(reached: bool) -> None:
            if not reached:
                self._registry.give_back_all(batch.leases)

        try:
            body, headers = render_batch(found.jobs, queue, batch.leases, accept=accept, root=call.root)
        except BaseException:
            self._registry.give_back_all(batch.leases)
            raise
        return Answer(200, body, headers + (preference or []), on_sent=sent)


def _size(wanted: Mapping[str, Any]) -> BatchSize:
    return BatchSize(int(wanted["max"]), wanted.get("max_bytes", BATCH_BYTES))
