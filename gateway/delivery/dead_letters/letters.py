"""Dead letters one by one: listed, deleted and moved back. Covers those that are stored under their queue's own key.

1. A dead letter is addressed by its job's id, or by a digest of its bytes (`address`).
2. One search of a queue runs at a time in a gateway: two would hide dead letters from each other, and give them back
   in another order than they took them.
3. A search that has begun ends, even if its request is cancelled.
4. A dead letter that is found is settled before the others go back, so it keeps its place if it cannot be settled.
5. It is certain that a dead letter does not exist only if all were looked at, on every server, and no other consumer
   held one.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, TypeVar

from gateway.common.counted import counted
from gateway.coverage import Covered, least
from gateway.delivery.backend import BackendMember
from gateway.delivery.caps.link import CapLink
from gateway.delivery.caps.turn import GatewayTurns
from gateway.delivery.dead_letters.inspection import DeadLetterAdmin
from gateway.delivery.dead_letters.redrive import OnJob, Redrive, Redriven, completed
from gateway.delivery.dead_letters.search import Search
from gateway.delivery.dead_letters.store import own_key
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.read import Job, unwrap
from gateway.envelope.times import instant
from gateway.errors import (
    BackendUnavailable,
    DeadLetterHeld,
    DeadLetterNotFound,
    GatewayError,
    LeaseLost,
    QueueDeleted,
    QueueNotFound,
)
from gateway.leases.lease import OpenRead

T = TypeVar("T")
SettleLetter: TypeAlias = Callable[[OpenRead, int], Coroutine[Any, Any, T]]
"""Settles the dead letter that was found. The number: how many others there were just before."""

TURN_S: Final = 40.0
"""How long a search waits for the searches before it: the longest one takes half of that."""
DIGEST: Final = "digest-"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._~-]{0,127}")


def search_turns(link: CapLink) -> GatewayTurns:
    """One search at a time, by the key of the queue of dead letters."""

    def busy() -> DeadLetterHeld:
        return DeadLetterHeld("other requests search these dead letters; try again")

    return GatewayTurns(link, "search ", TURN_S, busy)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter. letter: its address. bytes: its size on the queue. job: None if payloads were not wanted."""

    letter: str
    id: str | None
    queue: str | None
    reason: str | None
    error: str | None
    attempts: int | None
    enqueued_at: str | None
    dead_at: str | None
    expires_s: float | None
    bytes: int
    job: Job | None


@dataclass(frozen=True, slots=True)
class ListedLetters:
    """letters: the oldest first. left: how many more there were just before."""

    letters: Sequence[DeadLetter]
    left: int


class DeadLetterJobs:
    """The dead letters of all queues, one by one.

    servers: the current servers. tasks: the lifespan's group. turns: of searches, in all workers. payload_bytes: the
    most payload in one list.
    """

    def __init__(
        self,
        servers: Callable[[], Sequence[BackendMember]],
        admin: DeadLetterAdmin,
        redrive: Redrive,
        tasks: asyncio.TaskGroup,
        turns: GatewayTurns,
        *,
        payload_bytes: int,
    ) -> None:
        self._servers = servers
        self._admin = admin
        self._redrive = redrive
        self._tasks = tasks
        self._turns = turns
        self._payload_bytes = payload_bytes

    async def list(self, queue: Queue, most: int, *, payload: bool) -> Covered[ListedLetters | GatewayError]:
        """The oldest `most` dead letters; fewer if their payloads are wanted and too large together.

        QueueNotFound: neither the queue nor a dead letter exists. Raises BackendUnavailable, TooManyLeases.
        Cancelled: the search ends first.
        """
        async with self._turns.turn(own_key(queue)):  # the figures do not count what another search has taken
            found = await self._admin.count(queue)
            if isinstance(found.result, GatewayError):
                return Covered(found.result, found.coverage)
            if not found.result:
                return Covered(ListedLetters((), 0), found.coverage)
            listed, search = await completed(self._tasks, self._oldest(queue, most, payload=payload))
        if search.trouble is not None and not search.coverage.asked:
            raise search.trouble
        left = max(0, found.result - len(listed))
        return Covered(ListedLetters(listed, left), least(found.coverage, search.coverage))

    async def delete(self, queue: Queue, letter: str) -> Covered[GatewayError | None]:
        """Removes the dead letter permanently; of several with that id, the oldest on one server.

        DeadLetterNotFound, QueueNotFound. DeadLetterHeld: not all could be looked at.
        Raises: BackendUnavailable, also if it was not found and not every server was searched; OutcomeUnknown.
        """

        async def confirm(read: OpenRead, _: int) -> None:
            try:
                await read.confirm()
            except QueueDeleted:
                pass  # the dead letter is gone with its queue
            except LeaseLost as error:
                raise BackendUnavailable(
                    "the connection to Kestrel was lost; the dead letter is still there"
                ) from error

        done = await self._with(queue, letter, confirm)
        return done if isinstance(done.result, GatewayError) else Covered(None, None)

    async def redrive(
        self, queue: Queue, letter: str, target: Queue, on_job: OnJob | None = None
    ) -> Covered[Redriven | GatewayError]:
        """Moves the dead letter to the target as a first attempt; drops it if it has expired. Raises, and may be, what
        `delete` and Redrive.one raise.
        """

        async def move(read: OpenRead, others: int) -> Redriven:
            return replace(await self._redrive.one(queue, target, read, on_job), left=others)

        async with self._redrive.room(queue, target):
            return await self._with(queue, letter, move)

    async def _with(self, queue: Queue, letter: str, settle: SettleLetter[T]) -> Covered[T | GatewayError]:
        async with self._turns.turn(own_key(queue)):  # the figures do not count what another search has taken
            found = await self._admin.count(queue)
            if isinstance(found.result, QueueNotFound) and not (found.coverage and found.coverage.partial):
                return Covered(found.result, found.coverage)
            others = 0 if isinstance(found.result, GatewayError) else max(0, found.result - 1)
            done = await completed(self._tasks, self._find(queue, letter, lambda read: settle(read, others)))
            return Covered(done.result, least(found.coverage, done.coverage))

    async def _oldest(self, queue: Queue, most: int, *, payload: bool) -> tuple[Sequence[DeadLetter], Search]:
        """Searches each server for `most`, and merges what was found by the time of death."""
        search = Search(self._servers(), own_key(queue), queue.tenant)
        found: dict[int, list[DeadLetter]] = {}
        left_bytes = self._payload_bytes if payload else 0

        def look(server: int, read: OpenRead) -> bool:
            nonlocal left_bytes
            if payload and len(read.data) > left_bytes and any(found.values()):
                return False
            left_bytes -= len(read.data) if payload else 0
            found.setdefault(server, []).append(_shown(read.data, payload=payload))
            read.data = b""  # a search may hold a thousand
            return True

        try:
            await search.run(look, most=most)
        finally:
            await search.give_back()
        return _merged(list(found.values()))[:most], search

    async def _find(
        self, queue: Queue, letter: str, settle: Callable[[OpenRead], Coroutine[Any, Any, T]]
    ) -> Covered[T | GatewayError]:
        search = Search(self._servers(), own_key(queue), queue.tenant)
        wanted: list[OpenRead] = []

        def look(_: int, read: OpenRead) -> bool:
            if not wanted and _is(read.data, letter):
                wanted.append(read)
                search.stop()
                return False
            read.data = b""
            return True

        try:
            await search.run(look)
            if wanted:
                try:
                    return Covered(await settle(wanted[0]), None)
                except GatewayError as error:
                    return Covered(error, None)
        finally:
            await search.give_back()
        return Covered(await self._missing(queue, letter, search), search.coverage)

    async def _missing(self, queue: Queue, letter: str, search: Search) -> GatewayError:
        """Why there is no such dead letter, or why that is not certain (rule 5)."""
        shown, coverage = f"{letter[:80]!r}", search.coverage
        if coverage.partial:
            return search.trouble or BackendUnavailable(
                f"{queue.name!r} has no dead letter {shown} on {coverage.asked} of "
                f"{counted(coverage.total, 'server')}; the other servers did not answer: try again"
            )
        if not search.whole:
            return DeadLetterHeld(
                f"dead letter {shown} is not among the oldest of {queue.name!r}, which has too many to search all; "
                "move or delete the oldest first"
            )
        try:
            if await search.others_hold_some():
                return DeadLetterHeld(
                    f"dead letter {shown} of {queue.name!r} was not found, but another consumer holds some of the dead "
                    "letters; try again"
                )
        except BackendUnavailable as error:
            return error
        return DeadLetterNotFound(f"{queue.name!r} has no dead letter {shown}")


def address(item: bytes, job: Job) -> str:
    """The address in a URL: the id of its job if that needs no escaping, otherwise a digest of its bytes."""
    if job.id is not None and _PLAIN.fullmatch(job.id) and not job.id.startswith(DIGEST):
        return job.id
    return digest(item)


def digest(item: bytes) -> str:
    """The address of any dead letter, whatever its id."""
    return DIGEST + hashlib.blake2b(item, digest_size=16).hexdigest()


def _is(item: bytes, letter: str) -> bool:
    return digest(item) == letter if letter.startswith(DIGEST) else unwrap(item).id == letter


def _shown(item: bytes, *, payload: bool) -> DeadLetter:
    job = unwrap(item)
    event = job.event
    attempts = event.get("deadattempts")
    return DeadLetter(
        letter=address(item, job),
        id=job.id,
        queue=_text(event.get("deadqueue")),
        reason=_text(event.get("deadreason")),
        error=_text(event.get("lasterror")),
        attempts=attempts if isinstance(attempts, int) and not isinstance(attempts, bool) else None,
        enqueued_at=job.enqueued_at,
        dead_at=_text(event.get("deadtime")),
        expires_s=job.expires_s,
        bytes=len(item),
        job=job if payload else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _merged(servers: Sequence[Sequence[DeadLetter]]) -> list[DeadLetter]:
    """The dead letters of all servers by the time of death, each server's in its order."""
    heads = [list(reversed(letters)) for letters in servers if letters]
    merged = []
    while heads:
        first = min(heads, key=lambda letters: _died_s(letters[-1]))
        merged.append(first.pop())
        heads = [letters for letters in heads if letters]
    return merged


def _died_s(letter: DeadLetter) -> float:
    """When it became a dead letter, in Unix seconds; 0 if that is unknown."""
    try:
        return instant(letter.dead_at or "")
    except ValueError:
        return 0.0
