"""The control state of this worker, and how it follows that of all members.

1. Each worker looks at each member every LOOK_S: one peek. What is newer there is taken over at once, and listeners are
   called. A member that lacks something gets it, after 2 to 8 looks, so that one worker writes and not all: it was
   unreachable, is new, or was flushed.
2. A change is known here once a member has stored it. Members that cannot be reached get it when they return.
3. Nothing that is known is lost while this process or one member lives: a member without an item changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar, cast

from gateway.coverage import Coverage
from gateway.delivery.backend import BackendMember
from gateway.delivery.control.entries import ControlMap, EntryKind
from gateway.delivery.control.queue import ControlQueue, now_ms
from gateway.delivery.control.state import ControlItem, ControlState, EntryKey
from gateway.errors import BackendUnavailable, GatewayError, OutcomeUnknown

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_S: Final = 0.5
FIRST_LOOKS_S: Final = 1.0
"""How long the first look waits for members that have not answered, or whose item is set aside just now."""
FIRST_PACE_S: Final = 0.02
FRESH_S: Final = 1.5
"""What was read earlier is read again before anything depends on it: three looks are missing by then."""
REFRESH_S: Final = 0.5
"""How long a change waits for members that do not answer."""
COUNT_EVERY: Final = 20
"""Looks from one count of a member's items to the next. A writer that was killed may have left two."""


class _Followed:
    """What is known of one member. looks: how many. behind: how many looks in a row have found that it lacks something.

    task: the look in progress. read_at_s: monotonic, when the last look that was answered began.
    """

    def __init__(self, member: BackendMember, key: str) -> None:
        self.member = member
        self.queue = ControlQueue(member, key)
        self.looks = 0
        self.behind = 0
        self.task: asyncio.Task[None] | None = None
        self.read_at_s = -math.inf


class Control:
    """The control state. members: those of now. key: of the control queue. eager: this worker writes before others do.

    Create all views before `start`.
    """

    def __init__(self, members: Callable[[], Sequence[BackendMember]], key: str, *, eager: bool) -> None:
        self._members = members
        self._key = key
        self._patience = 2 if eager else random.randint(4, 8)  # noqa: S311 (no secret)
        self._state = ControlState()
        self._maps: dict[str, ControlMap[Any]] = {}
        self._followed: dict[BackendMember, _Followed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._read_at_s = -math.inf

    @property
    def known(self) -> bool:
        """Whether the state of some member was ever read."""
        return self._read_at_s > -math.inf

    @property
    def fresh(self) -> bool:
        """Whether the state of some member was read within FRESH_S. Not after this process was stopped for a while."""
        return time.monotonic() - self._read_at_s < FRESH_S

    @property
    def names(self) -> frozenset[str]:
        """The names of the current members."""
        return frozenset(each.name for each in self._members())

    def view(self, kind: EntryKind[T]) -> ControlMap[T]:
        """The entries of the kind; the same object for each call."""
        if kind.name not in self._maps:
            self._maps[kind.name] = ControlMap(kind, self.write)
        return cast("ControlMap[T]", self._maps[kind.name])

    async def start(self) -> None:
        """Reads the state of the members, for at most FIRST_LOOKS_S, and follows it from then on."""
        await self.learned(FIRST_LOOKS_S)
        self._begin(self._watch(), "looks at the control queues")

    async def close(self) -> None:
        """Looks no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def learned(self, within_s: float) -> bool:
        """Whether the state of some member is known; returns when it is, or after `within_s`.

        An item that a writer has set aside just now is waited for.
        """
        until_s = time.monotonic() + within_s
        while not self.known:
            members = [each for each in self._members() if each.reads]
            if members:
                looks = [self._begin(self._first_look(each), f"first look at {each.name}") for each in members]
                await asyncio.wait(looks, timeout=max(0.0, until_s - time.monotonic()))
            elif not self._members():
                return False
            if self.known or time.monotonic() >= until_s:
                break
            await asyncio.sleep(FIRST_PACE_S)
        return self.known

    async def _first_look(self, member: BackendMember) -> None:
        followed, began_s = self._follow(member), time.monotonic()
        try:
            item = await followed.queue.read()
            if item is None and await followed.queue.count():
                return
        except GatewayError as exc:
            log.debug("control queue of %s: %s", member.name, exc)
            return
        self._has_read(followed, item, began_s)

    async def refresh(self) -> Coverage:
        """Reads the state of every member that answers within REFRESH_S. Returns how many have answered."""
        members, began_s = self._members(), time.monotonic()
        looks = [self._begin(self._first_look(each), f"look at {each.name}") for each in members if each.reads]
        if looks:
            await asyncio.wait(looks, timeout=REFRESH_S)
        return Coverage(sum(self._follow(each).read_at_s >= began_s for each in members), len(members))

    async def read_now(self, within_s: float) -> bool:
        """Whether the state of some member is known. Returns when what was written until now is known, as far as the
        members answer: if the state was known before, within REFRESH_S, otherwise `within_s`.
        """
        if not self.known:
            return await self.learned(within_s)
        await self.refresh()
        return True

    async def read_again(self, within_s: float) -> bool:
        """Whether the state of some member was read since the call. Returns when it was, as for `refresh`, or after
        `within_s`: a process that was stopped for a while may find no member that answers, until it is connected again.
        """
        until_s = time.monotonic() + within_s
        while not (await self.refresh()).asked:
            if time.monotonic() >= until_s:
                return False
            await asyncio.sleep(FIRST_PACE_S)
        return True

    async def write(self, at: EntryKey, value: Any) -> Coverage:
        """Writes an entry; see ControlMap. It replaces also an entry that was written elsewhere just now."""
        await self.refresh()
        wanted = ControlState([(at, self._state.next_entry(at, value, now_ms()))])
        members = self._members()
        outcomes = await asyncio.gather(
            *(self._store(each, wanted) for each in members if each.writes), return_exceptions=True
        )
        stored = outcomes.count(None)
        unknown = False
        error: BaseException = BackendUnavailable("no Kestrel server accepts writes now")
        for outcome in outcomes:
            if isinstance(outcome, OutcomeUnknown):
                unknown, error = True, outcome
            elif outcome is not None and not unknown:
                error = outcome
        if not stored:
            if isinstance(error, GatewayError) and not isinstance(error, (BackendUnavailable, OutcomeUnknown)):
                raise BackendUnavailable(f"the control queue does not accept the change: {error.detail}") from error
            raise error
        return Coverage(stored, len(members))

    async def _store(self, member: BackendMember, wanted: ControlState) -> None:
        state = self._state.copy()
        state.merge(wanted)
        found = await self._follow(member).queue.write(state)
        self._merge(wanted)
        self._merge(found)

    # Looks

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            members = self._members()
            for former in self._followed.keys() - set(members):
                del self._followed[former]
            for member in members:
                followed = self._follow(member)
                if member.reads and (followed.task is None or followed.task.done()):
                    followed.task = self._begin(self._look(followed), f"look at {member.name}")

    async def _look(self, followed: _Followed) -> None:
        began_s = time.monotonic()
        try:
            item = await followed.queue.read()
            self._has_read(followed, item, began_s)
            followed.looks += 1
            if followed.looks % COUNT_EVERY == self._patience and await followed.queue.count() > 1:
                self._merge(await followed.queue.settle())
            elif (item is not None and item.state.covers(self._state)) or not len(self._state):
                followed.behind = 0
            else:
                await self._catch_up(followed)
        except GatewayError as exc:
            log.debug("control queue of %s: %s", followed.member.name, exc)
        except Exception:
            log.exception("reading or writing the control queue of %s failed", followed.member.name)

    async def _catch_up(self, followed: _Followed) -> None:
        followed.behind += 1
        if followed.behind >= self._patience and followed.member.writes:
            followed.behind = 0
            log.info("control state: %s lacks entries and gets them", followed.member.name)
            self._merge(await followed.queue.write(self._state.copy()))

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _follow(self, member: BackendMember) -> _Followed:
        if member not in self._followed:
            self._followed[member] = _Followed(member, self._key)
        return self._followed[member]

    def _has_read(self, followed: _Followed, item: ControlItem | None, began_s: float) -> None:
        """began_s: the answer is at least as new. It may have waited here for as long as this process was stopped."""
        if item is not None:
            self._merge(item.state)
        followed.read_at_s = max(followed.read_at_s, began_s)
        self._read_at_s = max(self._read_at_s, began_s)

    def _merge(self, state: ControlState) -> None:
        """Prunes both states: with a tombstone that only this worker still had, every member would seem to lack it."""
        time_ms = now_ms()
        state.prune(time_ms)
        changed: dict[str, list[str]] = {}
        for kind, name in [*self._state.merge(state), *self._state.prune(time_ms)]:
            changed.setdefault(kind, []).append(name)
        for kind, names in changed.items():
            if kind in self._maps:
                self._maps[kind].take_over(names, self._state)
