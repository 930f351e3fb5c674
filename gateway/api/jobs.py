"""Enqueue, next and peek over HTTP."""

from __future__ import annotations

import re

import orjson

from gateway.api.exchange import JSON, NO_STORE, Answer, Call, Headers
from gateway.contract.envelope import Job, timestamp
from gateway.delivery.publish import Publisher
from gateway.delivery.queues import Queues
from gateway.delivery.receive import Delivery, Receiver
from gateway.errors import ForbiddenPrefetch, InvalidParameter
from gateway.leases.registry import Registry
from gateway.settings import Settings

MAX_CONTENT_TYPE = 256
_CONTENT_TYPE = re.compile(r"[!-~](?:[ -~\t]*[!-~])?")
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=[,;]|$)", re.IGNORECASE)


class Jobs:
    """Handlers of the paths where jobs come and go."""

    def __init__(
        self, publisher: Publisher, receiver: Receiver, queues: Queues, registry: Registry, settings: Settings
    ) -> None:
        self._publisher = publisher
        self._receiver = receiver
        self._queues = queues
        self._registry = registry
        self._max_job_bytes = settings.max_job_bytes
        self._max_timeout_s = settings.max_timeout_s

    async def enqueue(self, call: Call) -> Answer:
        queue = call.queue()
        content_type = _content_type(call)
        body = await call.read(self._max_job_bytes)
        job_id = await self._publisher.enqueue(queue, body, content_type)
        return Answer(201, f'{{"id":"{job_id}","queue":"{queue.name}"}}'.encode(), [JSON, NO_STORE])

    async def next(self, call: Call) -> Answer:
        purpose = call.header(b"sec-purpose") or call.header(b"purpose") or ""
        if "prefetch" in purpose or "prerender" in purpose:
            raise ForbiddenPrefetch("a job is taken only by a request that means it")
        timeout_s, preference = self._timeout(call)
        delivery = await self._receiver.next(
            call.queue(), timeout_s=timeout_s, lease_s=call.query["lease"], on_gone=call.client.on_gone
        )
        if delivery is not None:
            return self._delivered(delivery, preference)
        closing: Headers = [(b"connection", b"close")] if self._receiver.draining else []
        return Answer(204, headers=[NO_STORE, *preference, *closing])

    async def peek(self, call: Call) -> Answer:
        queue = call.queue()
        job = await self._queues.peek(queue)
        return Answer(200, b"{%b}" % _members(job, queue.name, job.attempt), [JSON, NO_STORE])

    def _delivered(self, delivery: Delivery, preference: Headers) -> Answer:
        lease = delivery.lease
        lease_id = lease.id.encode()
        expires = timestamp(lease.expires_at_s).encode()
        body = b'{%b,"lease":{"id":"%b","expires_at":"%b","url":"/leases/%b"}}' % (
            _members(delivery.job, lease.queue, lease.attempt),
            lease_id,
            expires,
            lease_id,
        )
        headers: Headers = [
            JSON,
            NO_STORE,
            (b"lease-id", lease_id),
            (b"lease-expires", expires),
            (b"location", b"/leases/" + lease_id),
            *preference,
        ]

        def sent(reached: bool) -> None:
            if not reached:
                self._registry.give_back(lease)

        return Answer(200, body, headers, on_sent=sent)

    def _timeout(self, call: Call) -> tuple[float, Headers]:
        """How long to wait, and what to say of it: the parameter, else `Prefer: wait` (RFC 7240), else the default."""
        if b"timeout" not in call.scope["query_string"]:
            found = _WAIT.search(call.header(b"prefer") or "")
            if found is not None:
                wait_s = min(float(found[1]), self._max_timeout_s)
                return wait_s, [(b"preference-applied", b"wait=%d" % wait_s)]
        return call.query["timeout"], []


def _content_type(call: Call) -> str | None:
    content_type = call.header(b"content-type")
    if content_type is None or not (content_type := content_type.strip()):
        return None
    if len(content_type) > MAX_CONTENT_TYPE or not _CONTENT_TYPE.fullmatch(content_type):
        raise InvalidParameter(f"Content-Type: at most {MAX_CONTENT_TYPE} printable ASCII characters")
    return content_type


def _members(job: Job, queue: str, attempt: int) -> bytes:
    """The members every job is shown with, without the braces; the payload by its own bytes."""
    payload = b',"%b":%b' % (job.member.encode(), job.payload) if job.member else b""
    return b'"id":%b,"queue":"%b","attempt":%d,"enqueued_at":%b,"content_type":%b%b,"attributes":%b' % (
        orjson.dumps(job.id),
        queue.encode(),
        attempt,
        orjson.dumps(job.enqueued_at),
        orjson.dumps(job.content_type),
        payload,
        orjson.dumps(job.attributes),
    )
