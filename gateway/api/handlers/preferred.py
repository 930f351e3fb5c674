"""Next from several queues over HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.api.exchange import JSON, NO_STORE, Answer, Call, json_answer
from gateway.api.handlers.acks import PollAcks
from gateway.api.handlers.jobs import Jobs, held_headers, note_delivery
from gateway.api.request.polls import PollRequest, PollRequests, several_queues
from gateway.api.response.rendering import render_leased
from gateway.delivery.preferred import PreferredDelivery, PreferredReceiver
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.receive import Hold


class PreferredJobs:
    """Handlers of `/next`. jobs: the handlers of one queue, whose answers these are, too."""

    def __init__(self, receiver: PreferredReceiver, jobs: Jobs, *, polls: PollRequests, acks: PollAcks) -> None:
        self._receiver = receiver
        self._jobs = jobs
        self._polls = polls
        self._acks = acks

    async def next(self, call: Call) -> Answer:
        poll = self._polls.of_query(call)
        found = await self._take(call, several_queues(call), poll)
        if not isinstance(found, PreferredDelivery):
            return Answer(204, headers=[NO_STORE, *held_headers(found), *poll.preference])
        named = (b"queue-name", found.queue.name.encode())
        return self._jobs.delivered(call, found.queue, found.delivery, [named, *poll.preference])

    async def lease(self, call: Call) -> Answer:
        """Like `next`, with the parameters in the body, and a body in every answer."""
        wanted = await call.json()
        queues = [call.named(name) for name in wanted["queues"]]
        found = await self._take(call, queues, self._polls.of_body(wanted))
        if not isinstance(found, PreferredDelivery):
            return json_answer({"jobs": []}, headers=held_headers(found))
        lease = found.delivery.lease
        lease.holder = call.caller.name
        note_delivery(call, found.queue, found.delivery)
        with self._jobs.given_back_on_error(lease):
            body = render_leased(found.delivery.job, found.queue, lease, root=call.root)
        return self._jobs.carrying(lease, body, [JSON, NO_STORE, (b"queue-name", found.queue.name.encode())])

    async def _take(self, call: Call, queues: Sequence[Queue], poll: PollRequest) -> PreferredDelivery | Hold | None:
        await self._acks.done(call, poll)
        found = call.result(await self._receiver.next(queues, poll.options(call)))
        if isinstance(found, PreferredDelivery):
            call.context.lease_acked |= poll.at_most_once
        return found
