"""Next from several queues over HTTP."""

from __future__ import annotations

from gateway.api.exchange import JSON, NO_STORE, Answer, Call, json_answer
from gateway.api.handlers.jobs import Jobs, held_headers, note_delivery, refuse_prefetch
from gateway.api.response.rendering import render_leased
from gateway.delivery.preferred import PreferredDelivery, PreferredReceiver
from gateway.delivery.queues.catalog import Queue
from gateway.errors import InvalidParameter


class PreferredJobs:
    """Handlers of `/next`. jobs: the handlers of one queue, whose answers these are, too."""

    def __init__(self, receiver: PreferredReceiver, jobs: Jobs) -> None:
        self._receiver = receiver
        self._jobs = jobs

    async def next(self, call: Call) -> Answer:
        refuse_prefetch(call)
        timeout_s, preference = self._jobs.timeout(call)
        if not call.query["queue"]:
            raise InvalidParameter("queue: name 1 to 32 queues, such as ?queue=high&queue=low")
        queues = [call.named(name.replace(" ", "+")) for name in call.query["queue"]]
        at_most_once = await self._jobs.ack_first(call, call.query["ack"])
        given_s = call.query["lease_seconds"]
        found = call.result(
            await self._receiver.next(
                queues,
                timeout_s=timeout_s,
                lease_s=self._jobs.default_lease if given_s is None else lambda _: float(given_s),
                on_gone=call.request.on_gone,
                at_most_once=at_most_once,
            )
        )
        if not isinstance(found, PreferredDelivery):
            return Answer(204, headers=[NO_STORE, *held_headers(found), *preference])
        call.context.lease_acked |= at_most_once
        named = (b"queue-name", found.queue.name.encode())
        return self._jobs.delivered(call, found.queue, found.delivery, [named, *preference])

    async def lease(self, call: Call) -> Answer:
        """Like `next`, with the parameters in the body, and a body in every answer."""
        wanted = await call.json()
        queues = [call.named(name) for name in wanted["queues"]]
        at_most_once = await self._jobs.ack_first(call, wanted.get("ack"))

        def lease_s(queue: Queue) -> float:
            return float(wanted.get("lease_seconds", self._jobs.default_lease(queue)))

        found = call.result(
            await self._receiver.next(
                queues,
                timeout_s=float(wanted.get("timeout", self._jobs.default_timeout_s)),
                lease_s=lease_s,
                on_gone=call.request.on_gone,
                at_most_once=at_most_once,
            )
        )
        if not isinstance(found, PreferredDelivery):
            return json_answer({"jobs": []}, headers=held_headers(found))
        call.context.lease_acked |= at_most_once
        lease = found.delivery.lease
        lease.holder = call.caller.name
        note_delivery(call, found.queue, found.delivery)
        with self._jobs.given_back_on_error(lease):
            body = render_leased(found.delivery.job, found.queue, lease, root=call.root)
        return self._jobs.carrying(lease, body, [JSON, NO_STORE, (b"queue-name", found.queue.name.encode())])
