"""Dead letters one by one over HTTP."""

from __future__ import annotations

import orjson

from gateway.api.exchange import Answer, Call, json_answer
from gateway.common.counted import counted
from gateway.delivery.dead_letters.letters import DeadLetter, DeadLetterJobs
from gateway.envelope.times import timestamp
from gateway.errors import InvalidName

MAX_ADDRESS = 1024
WORK_LETTERS = 20
"""Searching this many dead letters is as much work as one more request."""


class DeadLetterHandlers:
    """Handlers of `/queues/{queue}/dead-letters/jobs`."""

    def __init__(self, letters: DeadLetterJobs) -> None:
        self._letters = letters

    async def list(self, call: Call) -> Answer:
        queue, payload = call.queue(), call.query["payload"]
        listed = call.result(await self._letters.list(queue, call.query["max"], payload=payload))
        call.worked(len(listed.letters), WORK_LETTERS)
        letters = [_shown(each) for each in listed.letters]
        return json_answer({"queue": queue.name, "letters": letters, "left": listed.left})

    async def delete(self, call: Call) -> Answer:
        call.result(await self._letters.delete(call.queue(), _address(call)))
        return Answer(204)

    async def redrive(self, call: Call) -> Answer:
        body = await call.json()
        queue, address = call.queue(), _address(call)
        target = call.named(body["to"]) if "to" in body else queue
        on_job = call.context.trace.redrive(target) if call.context.trace is not None else None
        return json_answer(call.result(await self._letters.redrive(queue, address, target, on_job)))


def _address(call: Call) -> str:
    """The dead letter that the path names. Raises InvalidName."""
    address = call.path("letter")
    if len(address) > MAX_ADDRESS:
        raise InvalidName(
            f"the dead letter's id has {counted(len(address), 'character')}, which is above the maximum of "
            f"{MAX_ADDRESS}"
        )
    return address


def _shown(letter: DeadLetter) -> dict[str, object]:
    shown: dict[str, object] = {
        "letter": letter.letter,
        "id": letter.id,
        "queue": letter.queue,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "enqueued_at": letter.enqueued_at,
        "dead_at": letter.dead_at,
        "expires_at": None if letter.expires_s is None else timestamp(letter.expires_s),
        "bytes": letter.bytes,
    }
    job = letter.job
    if job is not None:
        shown["content_type"] = job.content_type
        if job.member:
            shown[job.member] = orjson.Fragment(job.payload)
    return shown
