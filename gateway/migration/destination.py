"""Where moved items go: a Kestrel server, or a gateway over HTTP.

An item that is an envelope keeps its id, attributes and expiry. Over HTTP an item of a memcache client becomes a job
with the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.client.api import GatewayApi, queue_path
from gateway.client.failures import CallFailed
from gateway.client.target import Target
from gateway.common.counted import counted
from gateway.envelope.media import BATCH_TYPE, BYTES_TYPE
from gateway.envelope.read import unwrap
from gateway.envelope.times import wire_expiry
from gateway.kestrel.address import Address
from gateway.migration.kestrel_connection import KestrelConnection, KestrelFailed


@dataclass(frozen=True, slots=True)
class MovedItem:
    """An item on its way. expires_s: wall time; None: never, or only the item itself says when."""

    data: bytes
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of some items. done: so many of the first ones are stored or, `expired` of them, left out.

    obstacle: why the next one is not stored; empty if there is none. retryable: it may be stored later. not_allowed:
    the gateway does not accept the key, or the key does not allow it.
    """

    done: int
    expired: int = 0
    obstacle: str = ""
    retryable: bool = False
    not_allowed: bool = False


class Destination(Protocol):
    """Stores items. is_gateway: it has the names of HTTP, and no internal queues."""

    name: str
    is_gateway: bool

    def store(self, queue: str, items: Sequence[MovedItem]) -> StoreResult:
        """Stores the items in their order. A failure of the destination is in the result."""

    def has(self, queue: str) -> bool:
        """Whether there is such a queue; False if that cannot be seen. Raises KestrelFailed, CallFailed."""

    def children(self, queue: str) -> list[str]:
        """The children of the queue there, to which an item that is put on the queue is copied.

        Raises KestrelFailed, CallFailed.
        """

    def close(self) -> None: ...


class KestrelDestination:
    """A server that speaks Kestrel's protocol. It is connected to again after each failure."""

    is_gateway = False

    def __init__(self, address: Address) -> None:
        self.name = str(address)
        self._address = address
        self._connection: KestrelConnection | None = None

    def store(self, queue: str, items: Sequence[MovedItem]) -> StoreResult:
        now_s = time.time()
        live = [(place, each) for place, each in enumerate(items) if not _is_expired(each, now_s)]
        try:
            puts = [(each.data, wire_expiry(each.expires_s, now_s)) for _, each in live]
            stored, obstacle = self._connected().store(queue, puts) if puts else (0, "")
        except KestrelFailed as failed:
            return StoreResult(0, obstacle=str(failed), retryable=True)
        if not obstacle:
            return StoreResult(len(items), len(items) - len(live))
        self.close()
        done = live[stored][0]
        return StoreResult(done, done - stored, obstacle, retryable=True)

    def has(self, queue: str) -> bool:
        return queue in self._connected().queues()

    def children(self, queue: str) -> list[str]:
        return sorted(name for name in self._connected().queues() if name.startswith(f"{queue}+"))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> KestrelConnection:
        if self._connection is None:
            self._connection = KestrelConnection(self._address)
        return self._connection


class GatewayDestination:
    """A gateway. Each request has an idempotency key, so one that is repeated stores its jobs once."""

    is_gateway = True

    def __init__(self, target: Target) -> None:
        self.name = target.url
        self._api = GatewayApi(target, 0, lambda _: None)
        self._run = uuid.uuid4().hex
        self._raw: dict[str, bool] = {}
        self._stored = 0

    def store(self, queue: str, items: Sequence[MovedItem]) -> StoreResult:
        done = expired = 0
        while done < len(items):
            if _is_expired(items[done], time.time()):
                done, expired = done + 1, expired + 1
                continue
            try:
                is_raw = self._is_raw(queue)
            except CallFailed as failed:
                return _failed(failed, done, expired)
            result = self._send(queue, items[done : done + 1] if is_raw else _one_request(items[done:]), is_raw=is_raw)
            done += result.done
            if result.obstacle:
                return dataclasses.replace(result, done=done, expired=expired)
        return StoreResult(done, expired)

    def has(self, queue: str) -> bool:
        try:
            self._api.call("GET", queue_path(queue))
        except CallFailed as failed:
            if failed.status in (400, 403, 404):
                return False
            raise
        return True

    def children(self, queue: str) -> list[str]:
        try:
            answer = self._api.call("GET", f"{queue_path(queue)}/subscriptions")
        except CallFailed as failed:
            if failed.status in (400, 403, 404):  # no name for it, no queue yet, or a key that may only produce
                return []
            raise
        return [str(each["name"]) for each in answer.json()["subscriptions"]]

    def close(self) -> None:
        self._api.__exit__()

    def _is_raw(self, queue: str) -> bool:
        """Whether the queue stores payloads only: then each item is one. Raises CallFailed."""
        if queue not in self._raw:
            self._raw[queue] = self._api.is_raw(queue)
        return self._raw[queue]

    def _send(self, queue: str, items: Sequence[MovedItem], *, is_raw: bool) -> StoreResult:
        is_event = not is_raw and _is_event(items[0])
        body = b"[" + b",".join(each.data for each in items) + b"]" if is_event else items[0].data
        key = hashlib.sha256(f"{self._run} {queue} {self._stored} ".encode() + body).hexdigest()
        headers = {"Content-Type": BATCH_TYPE if is_event else BYTES_TYPE, "Idempotency-Key": f"forward-{key}"}
        try:
            answer = self._api.call("POST", f"{queue_path(queue)}/jobs", content=body, headers=headers)
        except CallFailed as failed:
            if failed.status in (400, 413) and len(items) > 1:
                return self._send(queue, items[:1], is_raw=is_raw)
            if _is_expired(items[0], time.time()):  # meanwhile: the next try leaves it out
                return StoreResult(0, obstacle=str(failed), retryable=True)
            return _failed(failed)
        if is_event and "results" not in answer.json():
            stored = counted(len(items), "job is", "jobs are")
            obstacle = (
                f"it has the format raw, so {stored} stored as one job; delete that job. "
                "A key with the scope observe lets the command see the format before it sends"
            )
            return StoreResult(0, obstacle=obstacle, retryable=False)
        results = answer.json()["results"] if is_event else [{}]
        done = next((place for place, each in enumerate(results) if "code" in each), len(items))
        self._stored += done
        if done == len(items):
            return StoreResult(done)
        refused = results[done]
        may_later = bool(refused["retryable"]) or _is_expired(items[done], time.time())
        return StoreResult(done, obstacle=f"{refused['code']}: {refused['detail']}", retryable=may_later)


def envelope_expiry(data: bytes) -> float | None:
    """When the envelope says that its job expires, in wall time; None for never, and for other items."""
    return unwrap(data).expires_s if b'"expires"' in data[:65536] else None


def _failed(failed: CallFailed, done: int = 0, expired: int = 0) -> StoreResult:
    retryable = failed.retryable or failed.status >= 500
    return StoreResult(done, expired, str(failed), retryable, failed.not_allowed)


def _is_expired(item: MovedItem, now_s: float) -> bool:
    return item.expires_s is not None and item.expires_s <= now_s


def _is_event(item: MovedItem) -> bool:
    return unwrap(item.data).id is not None


def _one_request(items: Sequence[MovedItem]) -> Sequence[MovedItem]:
    """The first items that fit in one request: envelopes that have not expired, or one other item."""
    count, now_s = 0, time.time()
    while count < len(items) and _is_event(items[count]) and not _is_expired(items[count], now_s):
        count += 1
    return items[: max(count, 1)]
