"""Enqueue over HTTP: one job, many jobs in one body, or lines as they arrive."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.api.exchange import JSON, NO_STORE, Answer, Call, failure_of_one, json_answer
from gateway.api.handlers.lines import enqueue_lines
from gateway.api.request.cloudevents import (
    EVENTS,
    JOB_OBJECTS,
    MANY,
    Heading,
    Mode,
    longest_line,
    many_items,
    one_item,
    read_heading,
)
from gateway.api.request.idempotency import IdempotentAnswer
from gateway.common.counted import counted
from gateway.delivery.idempotency.idempotent_enqueue import NewId
from gateway.delivery.publish import Publisher
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.due import due_ms
from gateway.envelope.media import BATCH_TYPE, JSON_TYPE, LINES_TYPE, STRUCTURED_TYPE, is_json_type
from gateway.envelope.times import timestamp
from gateway.envelope.write import EnqueueContext, Item, new_id
from gateway.errors import (
    GatewayError,
    InvalidName,
    InvalidParameter,
    PartlyRefused,
    PartlyStored,
    UnsupportedType,
)
from gateway.fairness.turns import Turns
from gateway.request import Headers
from gateway.settings import Settings

_ORDERING_KEY: Final = re.compile(r"[!-~]{1,256}")


class EnqueueJobs:
    """Handlers of the paths that enqueue jobs."""

    def __init__(self, publisher: Publisher, once: IdempotentAnswer, turns: Turns, settings: Settings) -> None:
        self._publisher = publisher
        self._once = once
        self._turns = turns
        self._max_job_bytes = settings.max_job_bytes
        self._max_batch_jobs = settings.max_batch_jobs
        self._max_batch_bytes = settings.max_batch_bytes

    async def one(self, call: Call) -> Answer:
        return await self._enqueue(call, read_heading(call.request.headers))

    async def event(self, call: Call) -> Answer:
        """Like `one`, for events only. Raises UnsupportedType if neither type nor headers make it an event."""
        heading = read_heading(call.request.headers)
        if heading.mode in (Mode.PLAIN, Mode.LINES):
            named = f"Content-Type: {heading.content_type!r:.80} is not an event type"
            raise UnsupportedType(
                f"{named if heading.content_type else 'the Content-Type is missing'}; send {STRUCTURED_TYPE} or "
                f"{BATCH_TYPE}, or the event's attributes in ce- headers"
            )
        return await self._enqueue(call, heading)

    async def many(self, call: Call) -> Answer:
        """Like `one`, for `{"jobs": [...]}`. Raises UnsupportedType if the type is not JSON."""
        heading = read_heading(call.request.headers)
        if heading.mode is Mode.LINES:
            heading.mode = Mode.JOB_LINES
            return await self._enqueue(call, heading)
        if not is_json_type(heading.content_type or JSON_TYPE) or heading.mode not in (Mode.PLAIN, Mode.BINARY):
            raise UnsupportedType(
                f"Content-Type: {heading.content_type!r:.80} is not supported on this path; send {JSON_TYPE}, "
                f"or {LINES_TYPE} with one job object on each line"
            )
        heading.mode = Mode.JOBS
        return await self._enqueue(call, heading)

    async def _enqueue(self, call: Call, heading: Heading) -> Answer:
        queue = call.queue()
        if queue.is_child:
            raise InvalidName(
                f"{queue.name!r} is a subscription, whose jobs are copies of those of its queue; "
                f"enqueue to {queue.parent!r}"
            )
        empty = _wants_no_body(call, heading.mode)
        lines = heading.mode is Mode.JOB_LINES or (heading.mode is Mode.LINES and not queue.policy.raw)
        if empty is not None and lines and not self._once.applies(call):
            return await self._enqueue_lines(call, queue, heading, empty)
        many = heading.mode in JOB_OBJECTS or (heading.mode in MANY and not queue.policy.raw)
        body = await call.read(self._max_batch_bytes if many else queue.policy.max_bytes or self._max_job_bytes)
        call.context.concerns(queue.name, size=len(body))
        if self._once.applies(call):
            answer = await self._once.answer(
                call, queue, body, lambda ids: self._store(call, queue, heading, body, ids)
            )
        else:
            answer = await self._store(call, queue, heading, body, new_id)
        if empty is None:
            return answer
        if answer.status == 207:
            raise _replayed(orjson.loads(answer.body)["results"])
        return _emptied(answer, empty)

    async def _enqueue_lines(self, call: Call, queue: Queue, heading: Heading, empty: Headers) -> Answer:
        """Enqueues lines as they arrive, however many there are. 204, or raises the failure with those of the jobs."""
        limit_bytes = queue.policy.max_bytes or self._max_job_bytes

        async def store(part: bytes) -> Sequence[GatewayError | None]:
            stamp = self._stamp(call, queue, heading)
            due = _due(call, stamp.now_s)
            return (await self._outcomes(call, queue, heading, part, stamp, new_id, due, limit=len(part)))[1]

        call.context.concerns(queue.name)
        await enqueue_lines(call, longest_line(heading.mode, limit_bytes), store)
        return Answer(204, headers=[NO_STORE, *empty])

    def _stamp(self, call: Call, queue: Queue, heading: Heading) -> EnqueueContext:
        ttl_s = call.query["ttl"]
        parent = heading.traceparent
        if call.context.trace is not None:
            parent = call.context.trace.enqueue(queue, parent, heading.tracestate)
        return self._publisher.stamp(
            queue,
            ttl_s=ttl_s if ttl_s is not None else queue.policy.ttl_s,
            traceparent=parent,
            tracestate=heading.tracestate,
            ordering_key=_ordering_key(call),
        )

    async def _store(self, call: Call, queue: Queue, heading: Heading, body: bytes, ids: NewId) -> Answer:
        stamp = self._stamp(call, queue, heading)
        due = _due(call, stamp.now_s)
        if queue.policy.raw and heading.mode not in JOB_OBJECTS:
            item = Item(ids(), body, stamp.expires_s)
        elif heading.mode in MANY:
            return await self._enqueue_many(call, queue, heading, body, stamp, ids, due)
        else:
            item = one_item(heading, body, stamp, ids())
        call.context.job_id = item.id
        ordering_key = _ordering_key(call)
        if due and item.due_ms is None:
            item = item._replace(due_ms=due)
        if item.due_ms:
            _check_unordered(ordering_key)
        await self._publisher.enqueue(queue, item, ordering_key)
        return json_answer(_receipt(queue, item), 201)

    async def _enqueue_many(  # noqa: PLR0917 (as _store)
        self, call: Call, queue: Queue, heading: Heading, body: bytes, stamp: EnqueueContext, ids: NewId, due: int
    ) -> Answer:
        """201 if every job is stored, 207 if some are. If none is and all failed alike, raises that failure.

        A client that prefers no body could not see in a 207 which jobs are not stored, so it gets the failure.
        """
        items, outcomes = await self._outcomes(call, queue, heading, body, stamp, ids, due, limit=self._max_batch_jobs)
        failures = [each for each in outcomes if each is not None]
        if failures and len(failures) == len(items) and len({each.code for each in failures}) == 1:
            raise failures[0]
        if failures and _wants_no_body(call, heading.mode) is not None:
            raise _failure(failures, len(items))
        operator = call.caller.sees_deployment
        results = [_result(queue, *each, operator=operator) for each in zip(items, outcomes, strict=True)]
        return json_answer({"queue": queue.name, "results": results}, 207 if failures else 201)

    async def _outcomes(  # noqa: PLR0917 (as _store)
        self,
        call: Call,
        queue: Queue,
        heading: Heading,
        body: bytes,
        stamp: EnqueueContext,
        ids: NewId,
        due: int,
        *,
        limit: int,
    ) -> tuple[list[Item | GatewayError], list[GatewayError | None]]:
        """Stores the jobs of the body: the item of each, or why there is none, and what became of it."""
        limits = {"limit": limit, "limit_bytes": queue.policy.max_bytes or self._max_job_bytes}
        each = many_items(heading, body, stamp, ids, raw=queue.policy.raw, **limits)
        items = await self._turns.all(each, queue.tenant)
        if call.context.trace is not None:
            call.context.trace.many(len(items))
        if due:
            items = [
                each._replace(due_ms=due) if isinstance(each, Item) and each.due_ms is None else each for each in items
            ]
        good = [item for item in items if isinstance(item, Item)]
        ordering_key = _ordering_key(call)
        if any(item.due_ms for item in good):
            _check_unordered(ordering_key)
        stored = iter(await self._publisher.enqueue_many(queue, good, ordering_key))
        return items, [next(stored) if isinstance(item, Item) else item for item in items]


def _result(
    queue: Queue, item: Item | GatewayError, outcome: GatewayError | None, *, operator: bool
) -> dict[str, object]:
    """The outcome of one of many jobs."""
    if outcome is None and isinstance(item, Item):
        return {"status": 201} | _receipt(queue, item)
    assert outcome is not None
    return failure_of_one(outcome, operator=operator)


def _receipt(queue: Queue, item: Item) -> dict[str, object]:
    receipt: dict[str, object] = {"id": item.id, "queue": queue.name, "content_type": item.content_type}
    return receipt | {"due_at": timestamp(item.due_ms / 1000)} if item.due_ms else receipt


def _due(call: Call, now_s: float) -> int:
    """When the jobs of the request are due, by its query; 0: now. Raises InvalidParameter."""
    try:
        return due_ms(call.query["delay"], call.query["at"], now_s) or 0
    except ValueError as exc:
        raise InvalidParameter(str(exc)) from exc


def _check_unordered(ordering_key: str | None) -> None:
    if ordering_key is not None:
        raise InvalidParameter("Ordering-Key: jobs with a delay have no order; leave out the Ordering-Key or the delay")


def _wants_no_body(call: Call, mode: Mode) -> Headers | None:
    """The headers of an empty answer, if the client prefers one; None if it wants the receipt.

    A sender of events that accepts an event in the answer (`Prefer: reply`) would take a receipt for a broken event.
    """
    preferred = call.preferences
    if preferred.get("return") == "minimal":
        return [(b"preference-applied", b"return=minimal")]
    return [] if call.query["receipt"] == "none" or ("reply" in preferred and mode in EVENTS) else None


def _emptied(answer: Answer, headers: Headers) -> Answer:
    return Answer(204, headers=[each for each in answer.headers or () if each != JSON] + headers)


def _failure(failures: list[GatewayError], jobs: int) -> GatewayError:
    """The failure of a request of which some jobs are not stored: a retryable one, if there is one."""
    failure = next((each for each in failures if each.retryable), failures[0])
    stored = jobs - len(failures)
    if not stored:
        which = "the job was not" if jobs == 1 else f"none of {counted(jobs, 'job')} was"
        failure.detail = f"{which} stored. The first failure: {failure.detail}"
        return failure
    detail = _partly(stored, jobs, failure.code, failure.detail)
    return PartlyStored(detail) if failure.retryable else PartlyRefused(detail)


def _replayed(results: Sequence[Mapping[str, Any]]) -> PartlyRefused:
    """The outcome of a repeated request of which some jobs are not stored; its key is used, so they never will be."""
    failures = [each for each in results if each["status"] != 201]
    first = failures[0]
    return PartlyRefused(_partly(len(results) - len(failures), len(results), first["code"], first.get("detail", "")))


def _partly(stored: int, jobs: int, code: str, detail: str) -> str:
    failure = f"{code}: {detail}" if detail else code
    return f"{stored} of {counted(jobs, 'job')} {'was' if stored == 1 else 'were'} stored. The first failure: {failure}"


def _ordering_key(call: Call) -> str | None:
    """The request's Ordering-Key. Raises InvalidParameter."""
    found = call.headers(b"ordering-key")
    if len(found) > 1:
        raise InvalidParameter(f"Ordering-Key is given {counted(len(found), 'time')}; send it once")
    if found and not _ORDERING_KEY.fullmatch(found[0]):
        raise InvalidParameter("Ordering-Key: use 1 to 256 visible ASCII characters")
    return found[0] if found else None
