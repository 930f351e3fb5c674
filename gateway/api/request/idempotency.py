"""The header `Idempotency-Key` on requests that enqueue.

Source: draft-ietf-httpapi-idempotency-key-header. The key is a structured-field string (RFC 9651, section 3.3.3). A
bare key is accepted, too, if it does not begin like such a string.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from collections.abc import Awaitable, Callable
from typing import Final

import orjson

from gateway.api.exchange import JSON, NO_STORE, Answer, Call
from gateway.delivery.idempotency.idempotent_enqueue import Idempotency, NewId
from gateway.delivery.idempotency.ledger import Reply
from gateway.delivery.queues.catalog import Queue
from gateway.errors import InvalidParameter

MAX_KEY: Final = 255
REPLAYED: Final = (b"idempotency-replayed", b"true")
_HEADER: Final = b"idempotency-key"
_BARE = re.compile(rb"[!#-~](?:[ -~]{0,%d}[!-~])?" % (MAX_KEY - 2))
_QUOTED = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\]){1,%d})"' % MAX_KEY)
# Limit for an answer in the file, for a day. A longer one is stored without the reasons of the jobs that failed.
KEPT_BYTES: Final = 8192
_SHORT_BYTES: Final = 512  # not worth packing
# A longer body is hashed in a thread, so that the loop is blocked for less than 0.1 ms.
HASHED_HERE: Final = 1 << 16


class IdempotentAnswer:
    """Answers an enqueue once per key."""

    def __init__(self, idempotency: Idempotency) -> None:
        self._idempotency = idempotency

    @staticmethod
    def applies(call: Call) -> bool:
        """Whether the request has a key."""
        return _HEADER in call.request.names

    async def answer(
        self, call: Call, queue: Queue, body: bytes, store: Callable[[NewId], Awaitable[Answer]]
    ) -> Answer:
        """The answer of `store`, or the earlier answer to the same request, which has a key. `store` answers with JSON.

        Raises: InvalidParameter if the key is malformed, and what Idempotency.once raises.
        """
        key = _key(call)
        whole = b""

        async def run(ids: NewId) -> Reply:
            nonlocal whole
            answer = await store(ids)
            whole = answer.body
            return Reply(answer.status, _packed(answer.body))

        place = (queue.tenant, queue.name, key)
        reply, replayed = await self._idempotency.once(place, await _fingerprint(call, body), run)
        said = _unpacked(reply.body) if replayed else whole
        return Answer(reply.status, said, [JSON, NO_STORE, REPLAYED] if replayed else [JSON, NO_STORE])


def _packed(body: bytes) -> bytes:
    """The stored form of the answer, which is JSON. Jobs that failed never make it much longer than KEPT_BYTES."""
    if len(body) <= _SHORT_BYTES:
        return body
    packed = zlib.compress(body, 1)
    if len(packed) > KEPT_BYTES:
        value = orjson.loads(body)
        for each in value.get("results", ()):
            each.pop("detail", None)
        packed = zlib.compress(orjson.dumps(value), 1)
    return packed


def _unpacked(kept: bytes) -> bytes:
    """The answer from its stored form. Earlier versions stored it unpacked: JSON begins with a brace."""
    return kept if kept.startswith(b"{") else zlib.decompress(kept)


def _key(call: Call) -> str:
    found = [value for name, value in call.request.headers if name == _HEADER]
    raw: bytes = found[0].strip()
    quoted = _QUOTED.fullmatch(raw)
    if len(found) > 1 or not (quoted or _BARE.fullmatch(raw)):
        raise InvalidParameter(
            f"Idempotency-Key: use one key of 1 to {MAX_KEY} printable ASCII characters, bare or in double quotes"
        )
    return (re.sub(rb"\\(.)", rb"\1", quoted[1]) if quoted else raw).decode()


async def _fingerprint(call: Call, body: bytes) -> bytes:
    """What makes two requests the same: parameters, content type, ordering key, CloudEvents headers and body.

    A parameter counts by its value, however the query writes it. `receipt` does not count: it changes the answer, not
    what is stored.
    """
    said = [
        name + b":" + value.strip()
        for name, value in call.request.headers
        if name in (b"content-type", b"ordering-key") or name.startswith(b"ce-")
    ]
    query = "&".join(f"{name}={_text(call.query[name])}" for name in sorted(call.query.given - {"receipt"}))
    head = b"\n".join([query.encode(), *sorted(said)])
    digest = hashlib.sha256(b"%d\n%b" % (len(head), head))
    if len(body) > HASHED_HERE:
        await asyncio.to_thread(digest.update, body)
    else:
        digest.update(body)
    return digest.digest()


def _text(value: object) -> str:
    """A parameter's value, a whole number of seconds without a fraction."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
