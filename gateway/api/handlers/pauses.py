"""Pausing queues over HTTP."""

from __future__ import annotations

import time
from typing import Any

from gateway.api.exchange import Answer, Call, json_answer
from gateway.delivery.pause import Pauses
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.queues.management import Queues
from gateway.envelope.times import YEAR_10000_S, instant, timestamp
from gateway.errors import InvalidBody


class PauseAdmin:
    """Handlers of `/queues/{queue}/pause`."""

    def __init__(self, pauses: Pauses, queues: Queues) -> None:
        self._pauses = pauses
        self._queues = queues

    async def begin(self, call: Call) -> Answer:
        queue = call.queue()
        wanted = await call.json()
        until_s = _until(wanted["until"]) if "until" in wanted else None
        call.result(await self._queues.existing(queue))
        call.context.covered_by(await self._pauses.begin(queue, until_s, wanted.get("reason", "")))
        return json_answer(self.shown(queue))

    async def end(self, call: Call) -> Answer:
        queue = call.queue()
        call.context.covered_by(await self._pauses.end(queue))
        return json_answer(self.shown(queue))

    async def forget(self, queue: Queue) -> None:
        """The queue was deleted, and its pause by a request with it."""
        await self._pauses.forget(queue)

    def member(self, queue: Queue) -> dict[str, Any]:
        """The member `pause` of a queue's figures; empty if the queue is not paused."""
        shown = self.shown(queue)
        return {"pause": shown} if shown["paused"] else {}

    def member_of(self, tenant: str, name: str) -> dict[str, Any]:
        """As `member`, of a queue or subscription in a list."""
        return self.member(self._pauses.queue(tenant, name))

    def shown(self, queue: Queue) -> dict[str, Any]:
        """Whether the queue is paused, and by what. Members that do not apply are absent."""
        pause, by_policy = self._pauses.of(queue), self._pauses.by_policy(queue)
        shown: dict[str, Any] = {"queue": queue.name, "paused": by_policy or pause is not None, "by_policy": by_policy}
        if pause is not None:
            shown["since"] = timestamp(pause.since_s)
            if pause.until_s is not None:
                shown["until"] = timestamp(pause.until_s)
            if pause.reason:
                shown["reason"] = pause.reason
        return shown


def _until(text: str) -> float:
    """The Unix time of `until`. Raises InvalidBody if it is no timestamp, or in the past."""
    try:
        until_s = instant(text)
    except ValueError as exc:
        raise InvalidBody(f"until: {text!r:.60} is not an RFC 3339 timestamp, such as 2026-01-31T12:00:00Z") from exc
    if until_s <= time.time():
        raise InvalidBody(f"until: {text} is not in the future; to end a pause, send DELETE")
    if until_s >= YEAR_10000_S:
        raise InvalidBody(f"until: {text} is after the year 9999; leave it out to pause until DELETE")
    return until_s
