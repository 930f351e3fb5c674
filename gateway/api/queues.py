"""Looking after queues over HTTP."""

from __future__ import annotations

from gateway.api.exchange import Answer, Call, json_answer
from gateway.delivery.queues import Queues


class QueueAdmin:
    """Handlers of `/queues` and `/queues/{queue}`."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    async def list(self, call: Call) -> Answer:
        return json_answer({"queues": await self._queues.list(call.caller.tenant)})

    async def get(self, call: Call) -> Answer:
        return json_answer(await self._queues.get(call.queue()))

    async def flush(self, call: Call) -> Answer:
        await self._queues.flush(call.queue())
        return Answer(204)

    async def delete(self, call: Call) -> Answer:
        queue = call.queue()
        return json_answer({"queue": queue.name, "leases_ended": await self._queues.delete(queue)})
