"""Settling and inspecting leases over HTTP."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from gateway.api.exchange import Answer, Call, failure_of_one, json_answer
from gateway.api.request.accept import ranges
from gateway.envelope.rewrite import plain
from gateway.envelope.times import timestamp
from gateway.errors import GatewayError, InvalidBody, LeaseNotFound
from gateway.fairness.turns import Turns
from gateway.forwarding.commands import LeaseCommand, Verb, settle_command
from gateway.forwarding.many import AT_ONCE, Outcome, some_at_once
from gateway.forwarding.router import LeaseRouter
from gateway.leases.ahead import AckAhead
from gateway.leases.batch import BatchPlan, plan
from gateway.leases.lease import LeaseRecord, Place, State

MAX_SETTLE_BYTES = 1 << 20
"""Limit for a body that settles one lease: a failure report with complete tracebacks."""
MAX_MANY_BYTES = 2 << 20
"""Limit for a body that settles many: ten thousand ids, each with the URL of a replica."""


class Leases:
    """Handlers of `/leases`."""

    def __init__(self, lease_router: LeaseRouter, turns: Turns) -> None:
        self._lease_router = lease_router
        self._turns = turns

    async def inspect(self, call: Call) -> Answer:
        return _shown(await self._own(call, call.path("lease")))

    async def ack(self, call: Call) -> Answer:
        names = call.request.names
        body = await call.json() if b"content-length" in names or b"transfer-encoding" in names else {}
        await self._check_queue(call, call.path("lease"))
        record = await self._lease_router.ack(call.path("lease"), call.caller.tenant, int(body.get("upto", 0)))
        call.context.concerns(record.queue, record.job_id)
        return Answer(204)

    async def ack_ahead(self, call: Call, lease_id: str) -> AckAhead | None:
        """The ack of the caller's lease, not begun; None if it was done at once, because it cannot wait for a take.

        Raises what LeaseRouter.ack raises.
        """
        if call.caller.queues:
            await self._check_queue(call, lease_id)
        ahead = self._lease_router.ack_ahead(lease_id, call.caller.tenant)
        if ahead is None:
            await self._lease_router.ack(lease_id, call.caller.tenant)
        return ahead

    async def nack(self, call: Call) -> Answer:
        return _left(call, await self._nack(call, call.path("lease"), await call.json(MAX_SETTLE_BYTES)))

    async def reject(self, call: Call) -> Answer:
        return _left(call, await self._reject(call, call.path("lease"), await call.json(MAX_SETTLE_BYTES)))

    async def extend(self, call: Call) -> Answer:
        body = await call.json()
        await self._check_queue(call, call.path("lease"))
        length_s = float(body["lease_seconds"])
        return _shown(await self._lease_router.extend(call.path("lease"), call.caller.tenant, length_s))

    async def settle(self, call: Call) -> Answer:
        """Each settlement succeeds or fails by itself. One result each, in the order of the body."""
        body = await call.json(MAX_MANY_BYTES)
        tenant = call.caller.tenant
        asked: list[tuple[Verb, str, dict[str, Any]]] = [(Verb.ACK, each, {}) for each in body.get("acks", ())]
        asked += [(Verb.NACK, each["lease"], each) for each in body.get("nacks", ())]
        asked += [(Verb.REJECT, each["lease"], each) for each in body.get("rejects", ())]
        refused = await self._refused(call, {lease_id for _, lease_id, _ in asked})
        outcomes: list[Outcome | None] = []
        commands: list[LeaseCommand] = []
        async for verb, lease_id, settlement in self._turns.slices(asked, tenant):
            outcome = refused.get(lease_id)
            if outcome is None:
                try:
                    commands.append(settle_command(verb, lease_id, tenant, settlement))
                except InvalidBody as error:
                    outcome = error
            outcomes.append(outcome)
        settled = iter(await self._lease_router.settle_many(commands, tenant))
        results = [
            _result(lease_id, outcome or next(settled), operator=call.caller.sees_deployment)
            async for (_, lease_id, _), outcome in self._turns.slices(zip(asked, outcomes, strict=True), tenant)
        ]
        return json_answer({"results": results}, 207 if any(each["status"] >= 400 for each in results) else 200)

    async def settle_batch(self, call: Call) -> Answer:
        """Settles each job of a batch in a way of its own. One result for each, in the order of the jobs."""
        body = await call.json(MAX_SETTLE_BYTES)
        for each in (*body.get("nacks", ()), *body.get("rejects", ())):
            each["reason"] = plain(each.get("reason", ""))
        await self._check_queue(call, call.path("lease"))
        lease = await self._lease_router.settle(call.path("lease"), call.caller.tenant, body)
        ways = plan(body, [job.job_id for job in lease.jobs])
        operator = call.caller.sees_deployment
        results = [_job_result(index, job, ways, operator=operator) for index, job in enumerate(lease.jobs)]
        return json_answer({"results": results}, 207 if any(each["status"] >= 400 for each in results) else 200)

    async def _refused(self, call: Call, lease_ids: Collection[str]) -> Mapping[str, GatewayError]:
        """The leases whose queue the caller may not use, each with its error."""
        refused: dict[str, GatewayError] = {}
        if not call.caller.queues:
            return refused

        async def look(lease_id: str) -> None:
            try:
                await self._own(call, lease_id)
            except GatewayError as error:
                refused[lease_id] = error

        await some_at_once(look, lease_ids, AT_ONCE)
        return refused

    async def _nack(self, call: Call, lease_id: str, body: dict[str, Any]) -> LeaseRecord:
        counted = body.get("count", True)
        if not counted and (body.get("position", "head") != "head" or body.get("delay")):
            raise InvalidBody(
                "count: with false the job goes to the head at once; leave out delay and the position tail"
            )
        await self._check_queue(call, lease_id)
        position = body.get("position") if counted else "head"
        return await self._lease_router.nack(
            lease_id,
            call.caller.tenant,
            asked=Place(position) if position else None,
            delay_s=float(body["delay"]) if "delay" in body and counted else None,
            reason=plain(body.get("reason", "")),
            counted=counted,
        )

    async def _reject(self, call: Call, lease_id: str, body: dict[str, Any]) -> LeaseRecord:
        await self._check_queue(call, lease_id)
        return await self._lease_router.reject(lease_id, call.caller.tenant, reason=plain(body.get("reason", "")))

    async def _own(self, call: Call, lease_id: str) -> LeaseRecord:
        """The lease, if the caller may use its queue. Raises LeaseNotFound, and what LeaseRouter.inspect raises."""
        lease = await self._lease_router.inspect(lease_id, call.caller.tenant)
        if not call.caller.may_use(lease.queue):
            raise LeaseNotFound("no such lease")
        return lease

    async def _check_queue(self, call: Call, lease_id: str) -> None:
        """Looks up the queue of the lease if the key is limited to some queues. Raises what `_own` raises."""
        if call.caller.queues:
            await self._own(call, lease_id)


def _result(lease_id: str, outcome: Outcome, *, operator: bool) -> dict[str, Any]:
    """The outcome of one of many settlements."""
    if isinstance(outcome, GatewayError):
        return {"lease": lease_id} | failure_of_one(outcome, operator=operator)
    position = _position(outcome)
    return {"lease": lease_id, "status": 200 if position else 204} | position


def _job_result(index: int, job: LeaseRecord, ways: BatchPlan, *, operator: bool) -> dict[str, Any]:
    """The outcome of one job of a batch."""
    result = {"job": index, "id": job.job_id}
    if (error := ways.error(index, job)) is not None:
        return result | failure_of_one(error, operator=operator)
    asked = ways.of(index).asked
    position = _position(job if asked is None else job._replace(target=asked))
    return result | {"status": 200 if position else 204} | position


def _left(call: Call, lease: LeaseRecord) -> Answer:
    """204 if the job is where the request wanted it; otherwise 200 with its actual or future position. A client that
    needs a body always gets 200.
    """
    call.context.concerns(lease.queue, lease.job_id)
    position = _position(lease)
    preferred = call.preferences.get("return", "")
    if not position and lease.place and _needs_body(call, preferred):
        position = {"position": lease.place} | ({"jobs": _jobs(lease)} if lease.jobs else {})
    met = preferred == ("representation" if position else "minimal")
    applied = [(b"preference-applied", b"return=" + preferred.encode())] if met else []
    return json_answer(position, headers=applied) if position else Answer(204, headers=applied)


def _needs_body(call: Call, preferred: str) -> bool:
    """Whether the client prefers a body, or accepts only JSON, like a client that is generated from the contract."""
    if preferred in ("minimal", "representation"):
        return preferred == "representation"
    accepted = ranges(call.accept)
    return accepted.get("application/json", 0) > 0 and "*/*" not in accepted


def _position(lease: LeaseRecord) -> dict[str, object]:
    """What differs from the request, or is still to come; for a batch that of the first such job, and all jobs."""
    if lease.jobs:
        shown = sorted(lease.jobs, key=lambda job: job.as_asked)
        position = next(filter(None, map(_position, shown)), {})
        return position | {"jobs": _jobs(lease)} if position else {}
    if lease.due_at_s is not None:
        return {"position": lease.place, "due_at": timestamp(lease.due_at_s)}
    return {} if lease.as_asked else {"position": lease.place}


def _jobs(batch: LeaseRecord) -> list[dict[str, object]]:
    """The jobs of a batch."""
    return [
        {"id": each.job_id, "state": _state(each), "attempt": each.attempt, "position": each.place}
        for each in batch.jobs
    ]


def _state(lease: LeaseRecord) -> State:
    """Its state; a delay that is over is none."""
    over = lease.state is State.DELAYED and lease.expires_at_s <= time.time()
    return State.NACKED if over else lease.state


def _shown(lease: LeaseRecord) -> Answer:
    return json_answer(
        {
            "id": lease.id,
            "queue": lease.queue,
            "job_id": lease.job_id,
            "state": _state(lease),
            "attempt": lease.attempt,
            "expires_at": timestamp(lease.expires_at_s),
            "position": lease.place,
        }
        | ({"jobs": _jobs(lease)} if lease.jobs else {})
    )
