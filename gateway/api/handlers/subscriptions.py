"""Subscriptions over HTTP: creating, showing and deleting the fanout children of a queue."""

from __future__ import annotations

from dataclasses import asdict

from gateway.api.exchange import MAX_CONTROL_BYTES, Answer, Call, json_answer
from gateway.api.handlers.pauses import PauseAdmin
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.subscriptions.subscriptions import Subscriptions
from gateway.errors import InvalidBody, InvalidName
from gateway.names.namespace import FANOUT


class SubscriptionAdmin:
    """Handlers of `/queues/{queue}/subscriptions` and below."""

    def __init__(self, subscriptions: Subscriptions, pauses: PauseAdmin) -> None:
        self._subscriptions = subscriptions
        self._pauses = pauses

    async def list(self, call: Call) -> Answer:
        queue = call.queue()
        if queue.is_child:
            raise InvalidName(f"{queue.name!r} is a subscription and has no subscriptions; name its queue")
        found = call.result(await self._subscriptions.list(queue))
        tenant = queue.tenant
        shown = [
            asdict(each) | self._pauses.member_of(tenant, each.name) for each in found if call.caller.may_use(each.name)
        ]
        return json_answer({"queue": queue.name, "subscriptions": shown})

    async def create(self, call: Call) -> Answer:
        if b"".join((await call.read(MAX_CONTROL_BYTES)).split()) not in (b"", b"{}", b"null"):
            raise InvalidBody("a subscription has no members to set: send no body, or {}; its limits are in its policy")
        made = call.result(await self._subscriptions.create(_child(call)))
        return json_answer(made, 201 if made.created else 200)

    async def get(self, call: Call) -> Answer:
        child = _child(call)
        return json_answer(asdict(call.result(await self._subscriptions.get(child))) | self._pauses.member(child))

    async def delete(self, call: Call) -> Answer:
        """Also for `DELETE /queues/{queue}` of a subscription's name."""
        child = _child(call)
        leases_ended = call.result(await self._subscriptions.delete(child))
        await self._pauses.forget(child)
        return json_answer({"queue": child.name, "leases_ended": leases_ended})


def _child(call: Call) -> Queue:
    """The subscription that the path names. Raises InvalidName, ForbiddenQueue."""
    child = call.path("child")
    if FANOUT in call.path("queue"):
        raise InvalidName(f"{call.path('queue')[:140]!r} is a subscription and has no subscriptions; name its queue")
    return call.named(f"{call.path('queue')}{FANOUT}{child}")
