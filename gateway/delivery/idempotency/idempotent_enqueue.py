"""Idempotent enqueues: a request with a key that was used before gets the first answer; nothing is stored again.

A duplicate in the same worker waits in memory; one in another worker polls the ledger. Knows no HTTP.

1. Of several requests with the same key at the same time, one stores; the others wait for it and get its reply.
2. A key whose jobs were certainly not stored is forgotten. If the outcome is unknown, the next request stores the jobs
   again, under the same ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.common.limited_log import LimitedLog
from gateway.delivery.idempotency import ledger_file
from gateway.delivery.idempotency.ledger import DamagedEntryError, Entry, Ledger, Reply, ScopedKey
from gateway.delivery.idempotency.ledger_file import UnknownFormatError
from gateway.errors import (
    GatewayError,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    OutcomeUnknown,
    PartlyRefused,
    PartlyStored,
    Unavailable,
)
from gateway.forwarding.workers import is_alive
from gateway.settings import Settings

log = logging.getLogger(__name__)

NewId = Callable[[], str]
Store = Callable[[NewId], Awaitable[Reply]]
"""Stores the jobs under ids from its argument, in an order that depends only on the request."""

# Another worker does not report when it is done, so its entry is read again: soon at first, then less often.
FIRST_LOOK_S: Final = 0.005
SLOWEST_LOOK_S: Final = 0.1
# The time between a claim on disk and the start of its put.
SLACK_S: Final = 5.0


@dataclass(slots=True)
class _InProgress:
    """A key that this worker is storing for. done: its reply; None if it ended without one."""

    fingerprint: bytes
    done: asyncio.Future[Reply | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Idempotency:
    """Runs each enqueue once per key. wait_s: how long a duplicate waits for the first. hold_s: longest time of a
    put."""

    def __init__(self, ledger: Ledger, *, wait_s: float, hold_s: float) -> None:
        self._ledger = ledger
        self._wait_s = wait_s
        self._hold_s = hold_s
        self._in_progress: dict[ScopedKey, _InProgress] = {}
        self._limited = LimitedLog()

    async def once(self, place: ScopedKey, fingerprint: bytes, store: Store) -> tuple[Reply, bool]:
        """The reply of `store`, from now or from an earlier run; True if it is from an earlier run.

        Raises: IdempotencyKeyReused if the earlier run had another fingerprint. IdempotencyInFlight if the first
        request is not done in time. Unavailable if the ledger cannot be used; nothing was stored. OutcomeUnknown if the
        entry is damaged or storing took too long. What `store` raises.
        Cancelled: the jobs may be stored; the next request with this key stores them under the same ids.
        """
        deadline_s = asyncio.get_running_loop().time() + self._wait_s
        while (earlier := self._in_progress.get(place)) is not None:
            reply = await _reply_of(earlier, deadline_s)
            if reply is not None and earlier.fingerprint == fingerprint:
                return reply, True
        own = self._in_progress[place] = _InProgress(fingerprint)
        try:
            reply, replayed = await self._run(place, fingerprint, store, deadline_s)
            own.done.set_result(reply)
            return reply, replayed
        finally:
            del self._in_progress[place]
            if not own.done.done():
                own.done.set_result(None)

    async def close(self) -> None:
        """Returns when everything is on disk. No request may be in progress."""
        await self._ledger.close()

    async def _run(self, place: ScopedKey, fingerprint: bytes, store: Store, deadline_s: float) -> tuple[Reply, bool]:
        pause_s = FIRST_LOOK_S
        while True:
            try:
                entry = await self._ledger.claim(place, fingerprint, self._hold_s + SLACK_S)
            except DamagedEntryError as exc:
                if (more := self._limited.count("entry")) is not None:
                    log.error("the entry of an idempotency key is damaged (queue %r, key %r)%s", *place[1:], more)  # noqa: TRY400
                raise OutcomeUnknown(
                    "the entry of this Idempotency-Key is damaged, so the gateway cannot know whether its request was "
                    "stored; check whether the jobs are there, and send them with another key if not"
                ) from exc
            except (sqlite3.Error, UnknownFormatError) as exc:
                self._log_failure("used", exc)
                raise Unavailable("idempotency keys cannot be stored at the moment; nothing was enqueued") from exc
            if entry.fingerprint != fingerprint:
                raise IdempotencyKeyReused(
                    "this Idempotency-Key was already used for a different request; use a new key"
                )
            if entry.reply is not None:
                return entry.reply, True
            if entry.mine:
                return await self._store(place, entry, store), False
            if asyncio.get_running_loop().time() + pause_s > deadline_s:
                raise _in_flight()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, SLOWEST_LOOK_S)

    async def _store(self, place: ScopedKey, entry: Entry, store: Store) -> Reply:
        try:
            async with asyncio.timeout(self._hold_s):
                reply = await store(ids(entry.seed))
        except TimeoutError as exc:
            await self._noted(self._ledger.leave(place))
            raise OutcomeUnknown(
                "storing took too long; the jobs may or may not be stored: send the request again with the same "
                "Idempotency-Key"
            ) from exc
        except GatewayError as exc:
            surely_not = entry.fresh and not isinstance(exc, OutcomeUnknown | PartlyRefused | PartlyStored)
            await self._noted(self._ledger.release(place) if surely_not else self._ledger.leave(place))
            raise
        except Exception:
            await self._noted(self._ledger.leave(place))
            raise
        await self._noted(self._ledger.settle(place, reply))
        return reply

    async def _noted(self, note: Awaitable[None]) -> None:
        """Returns when it is on disk or failed. After a failure the entry stays claimed and is taken over with its
        ids, or is damaged and refused."""
        try:
            await note
        except (sqlite3.Error, DamagedEntryError) as exc:
            self._log_failure("written", exc)

    def _log_failure(self, what: str, error: Exception) -> None:
        if (more := self._limited.count(what)) is not None:
            log.error("%s cannot be %s: %s%s", ledger_file.NAME, what, ledger_file.explained(error), more)


def ids(seed: bytes) -> NewId:
    """A generator that returns the same ids in the same order for the same seed."""

    def each() -> Iterator[str]:
        yield seed.hex()
        for number in itertools.count(1):
            yield hashlib.blake2b(b"%d" % number, key=seed, digest_size=16).hexdigest()

    return each().__next__


async def _reply_of(earlier: _InProgress, deadline_s: float) -> Reply | None:
    """Its reply; None if it ended without one. Raises IdempotencyInFlight."""
    try:
        async with asyncio.timeout_at(deadline_s):
            return await asyncio.shield(earlier.done)
    except TimeoutError as exc:
        raise _in_flight() from exc


def _in_flight() -> IdempotencyInFlight:
    return IdempotencyInFlight("a request with this Idempotency-Key is in progress; its outcome is not known yet")


def shared_by_workers(settings: Settings, run_dir: Path, boot_id: str) -> Idempotency:
    """The idempotency keys, which all workers of the data directory share. Nothing is opened yet."""
    ledger = Ledger(
        settings.data / ledger_file.NAME,
        boot_id,
        lambda other: is_alive(run_dir, other),
        window_s=settings.idempotency_window_s,
        limit=settings.max_idempotency_keys,
        synced=settings.fsync == "always",
    )
    # A put may connect first, and is sent once more if the policy allows duplicates.
    hold_s = 2 * (settings.kestrel_connect_timeout_s + settings.kestrel_command_timeout_s) + 1
    return Idempotency(ledger, wait_s=settings.kestrel_command_timeout_s, hold_s=hold_s)
