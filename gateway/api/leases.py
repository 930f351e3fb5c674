"""Settling and inspecting leases over HTTP."""

from __future__ import annotations

from gateway.api.exchange import Answer, Call, json_answer
from gateway.contract.times import timestamp
from gateway.errors import LeaseNotFound
from gateway.leases.desk import Desk
from gateway.leases.orders import LeaseView


class Leases:
    """Handlers of `/leases/{lease}`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def inspect(self, call: Call) -> Answer:
        lease = await self._desk.inspect(call.path("lease"), call.caller.tenant)
        if not call.caller.may_use(lease.queue):
            raise LeaseNotFound("no such lease")
        return _shown(lease)

    async def ack(self, call: Call) -> Answer:
        await self._check_queue(call)
        await self._desk.ack(call.path("lease"), call.caller.tenant)
        return Answer(204)

    async def nack(self, call: Call) -> Answer:
        await call.order()
        await self._check_queue(call)
        await self._desk.nack(call.path("lease"), call.caller.tenant)
        return Answer(204)

    async def extend(self, call: Call) -> Answer:
        order = await call.order()
        await self._check_queue(call)
        return _shown(await self._desk.extend(call.path("lease"), call.caller.tenant, float(order["lease"])))

    async def _check_queue(self, call: Call) -> None:
        """Asks on whose queue the lease is where the key is for some queues only. Raises as `inspect`."""
        if call.caller.queues:
            await self.inspect(call)


def _shown(lease: LeaseView) -> Answer:
    return json_answer(
        {
            "id": lease.id,
            "queue": lease.queue,
            "job_id": lease.job_id,
            "state": lease.state,
            "attempt": lease.attempt,
            "expires_at": timestamp(lease.expires_at_s),
        }
    )
