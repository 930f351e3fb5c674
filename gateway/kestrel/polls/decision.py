"""What to do after an event of a queue's polls: `assign` is the one decision function, and carries out nothing.

It changes the state only to record its decisions. The rules: gateway.kestrel.polls.rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

from gateway.kestrel.polls.rules import GATHER_S, LINGER_S, PROOF_S, QUEUE_GETS, QUIET_S, SETTLE_S, STEP_S, UNREAD_S
from gateway.kestrel.polls.state import QueuePolls
from gateway.kestrel.polls.values import Action, Give, Source, Waiter, WaiterPhase, Why, usable


def joins(polls: QueuePolls, waiter: Waiter, now: float) -> bool:
    """A poll begins that only awaits the takes under way, so that there is nothing to decide. Returns whether that
    is so; if not, call `came`.

    The state is then the same as after `came` and `assign`. No other event may be undecided.
    """
    silence_at = min(polls.silence_at, now + min(PROOF_S, waiter.patience_s))
    sources = polls.sources
    if polls.waiting or polls.kept.items or silence_at <= now or not sources:
        return False
    for source in sources:
        limit = 1 if source.empty else source.limit
        if source.waits or len(source.takes) < limit or (not source.empty and len(sources) > 1):
            return False
    for source in sources:
        source.look()
        if not source.reads or source.items <= 0:
            return False
    if waiter.deadline <= now:
        waiter.ending = True
    polls.number += 1
    waiter.since = polls.number
    waiter.since_at = waiter.alone_until = now
    polls.line[waiter] = polls.askers[waiter] = None
    polls.silence_at = polls.next_at = silence_at
    return True


def assign(polls: QueuePolls, now: float) -> list[Action]:
    """What to do now, in this order. The state counts it as done."""
    polls.next_at = math.inf
    polls.starving = False
    reads = False
    for source in polls.sources:
        source.look()
        reads = reads or source.reads
    if polls.kept.items:
        _match(polls, now)
    if polls.arrived or polls.askers:
        able = [source for source in polls.sources if (source.reads or not reads) and not source.shut]
        if not able:
            _refuse(polls)
        polls.arrived.clear()
        if polls.askers:
            _conclude(polls, now, able)
            _take(polls, now, able)
    if polls.waiting:
        _check(polls, now)
        _wait(polls, now)
    if not polls.line:
        _rest(polls, now)
    if polls.kept.items:
        _back(polls, now)
    actions, polls.actions = polls.actions, []
    return actions


def _match(polls: QueuePolls, now: float) -> None:
    """Gives items to waiters (rule 1)."""
    kept = polls.kept
    for each in list(kept.items):
        _, item, source = each
        if item.lost:
            kept.items.remove(each)
        elif polls.line and source.items >= 0:
            kept.items.remove(each)
            waiter, _ = polls.line.popitem(last=False)
            polls.pause(waiter)
            waiter.move(WaiterPhase.GIVEN)
            waiter.item, waiter.source = item, source
            polls.given.add(waiter)
            polls.actions.append(Give(waiter, item))
    if not kept.items:
        kept.back_at = math.inf
        kept.settling = False
    elif kept.keep_s is not None:
        keep_s = kept.keep_s if any(source.items >= 0 for _, _, source in kept.items) else 0.0
        if keep_s < GATHER_S and any(get.sent for each in polls.sources for get in [*each.takes, *each.waits]):
            keep_s = GATHER_S
        kept.back_at = now + keep_s
    kept.keep_s = None


def _refuse(polls: QueuePolls) -> None:
    """Ends the calls of new waiters while every server that delivers items is shut (rule 7)."""
    for source in polls.sources:
        if source.reads:
            for waiter in polls.arrived:
                if waiter in polls.line:
                    polls.end(waiter, *_trouble(source))
            return


def _conclude(polls: QueuePolls, now: float, able: Sequence[Source]) -> None:
    """Uses the results of takes: waiters that have asked every server wait, or end (rules 3 and 4)."""
    done = polls.number
    for source in able:
        done = min(done, source.done)
    while polls.askers and (waiter := next(iter(polls.askers))).since <= done:
        _asked(polls, waiter)
    if now < polls.silence_at:
        polls.next_at = min(polls.next_at, polls.silence_at) if polls.askers else polls.next_at
        return
    polls.silence_at = math.inf
    for waiter in list(polls.askers):
        due = _silent_at(polls, waiter, able)
        if now >= due:
            _asked(polls, waiter)
        else:
            polls.silence_at = min(polls.silence_at, due)
    polls.next_at = min(polls.next_at, polls.silence_at)


def _silent_at(polls: QueuePolls, waiter: Waiter, able: Sequence[Source]) -> float:
    """The time from which the waiter need not wait for its takes."""
    proved = any(source.proved >= waiter.since for source in polls.sources)
    patience_s = PROOF_S if proved else waiter.patience_s
    silent_at = max((source.server.heard_at for source in able if source.done < waiter.since), default=waiter.since_at)
    return min(max(silent_at, waiter.since_at) + patience_s, waiter.since_at + polls.patience_s)


def _asked(polls: QueuePolls, waiter: Waiter) -> None:
    if not waiter.ending:
        polls.pause(waiter)
        polls.start_waiting(waiter)
        return
    asked = 0
    for source in polls.sources:
        if source.proved >= waiter.since:
            asked += 1
    why: tuple[Why, Source | None] = (Why.EMPTY, None) if asked else _unasked(polls, waiter)
    polls.end(waiter, *why, asked=asked)


def _unasked(polls: QueuePolls, waiter: Waiter) -> tuple[Why, Source | None]:
    """Why no server was asked."""
    if not polls.sources:
        return Why.NO_SERVER, None
    for source in polls.sources:
        if source.reads and source.server.full_at >= waiter.joined_at:
            return Why.FULL, source
    return _trouble(next((source for source in polls.sources if source.shut), polls.sources[0]))


def _trouble(source: Source) -> tuple[Why, Source]:
    if not source.reads:
        return Why.DOWN, source
    if source.shut:
        return (Why.FULL if source.full else Why.CROWDED), source
    if source.error is not None:
        return Why.FAILED, source
    sent = any(get.sent for get in [*source.takes, *source.waits])
    return (Why.SILENT if sent else Why.UNCONNECTED), source


def _take(polls: QueuePolls, now: float, able: Sequence[Source]) -> None:
    """Sends gets without `t=` for waiters that ask (rules 2 and 6)."""
    alone = 0
    if len(able) > 1:
        heard = max(source.done for source in able)
        for waiter in reversed(polls.askers):
            if waiter.since <= heard or waiter.alone_until <= now:
                break
            alone += 1
            polls.next_at = min(polls.next_at, waiter.alone_until)
    under_way = 0
    for source in able:
        limit = 1 if source.empty else source.limit
        need = 0
        for waiter in islice(reversed(polls.askers), alone, None):
            if waiter.since <= source.done or need >= limit:
                break
            need += 1
        if need > len(source.takes):
            for _ in range(min(need - len(source.takes), source.take_room())):
                polls.send(source, now, waits=False)
        under_way += len(source.takes)
    for _ in range(alone - under_way):
        likely = [each for each in able if each.likely and len(each.takes) < each.limit and each.take_room()]
        if not likely:
            break
        polls.send(min(likely, key=lambda each: each.last_at), now, waits=False)


def _check(polls: QueuePolls, now: float) -> None:
    """Sends takes where a wait should have brought an item by now (rule 12)."""
    for source in polls.sources:
        if source.check_at > now:
            polls.next_at = min(polls.next_at, source.check_at)
            continue
        source.check_at = math.inf
        oldest = next(iter(source.waits), None)
        if source.takes or oldest is None or oldest.sent_at > source.stored_at:
            continue
        if source.take_room():
            polls.send(source, now, waits=False)


def _wait(polls: QueuePolls, now: float) -> None:
    """Sends gets with `t=` for waiters that wait (rules 5 and 6)."""
    if polls.furthest - now < STEP_S:
        return
    for source in polls.sources:
        if source.retry_at > now:
            polls.next_at = min(polls.next_at, source.retry_at)
    sources = usable(polls.sources)
    if len(polls.sources) == 1:
        source = sources[0]
        count = source.wants(polls.waiting, now)
        for _ in range(count):
            polls.send(source, now, waits=True)
        polls.starving = not count and source.shut
        return
    polls.starving = any(source.shut for source in polls.sources)
    waits = [get for source in polls.sources for get in source.waits]
    free = polls.waiting - sum(now - get.begun_at < STEP_S for get in waits)
    left = QUEUE_GETS - len(waits)
    room = {source: count for source in sources if (count := source.wants(polls.waiting, now))}
    for _ in range(min(free, left)):
        if not room:
            break
        source = min(room, key=lambda each: _rank(each, now))
        polls.send(source, now, waits=True)
        room[source] -= 1
        if not room[source]:
            del room[source]
        left -= 1
    if room and left > 0:
        polls.next_at = min(polls.next_at, now + STEP_S)


def _rest(polls: QueuePolls, now: float) -> None:
    """No waiter is in line (rule 9)."""
    waits = False
    for source in polls.sources:
        source.retry_at = -math.inf
        source.check_at = math.inf
        source.unseen = 0
        if source.takes or source.waits:
            polls.close_gets([get for get in [*source.takes, *source.waits] if not get.sent])
            waits = waits or bool(source.waits)
    if not waits:
        polls.quiet_at = math.inf
    elif polls.quiet_at == math.inf:
        polls.quiet_at = now + (LINGER_S if len(polls.sources) > 1 else QUIET_S)
    elif now >= polls.quiet_at:
        polls.quiet_at = math.inf
        for source in polls.sources:
            polls.close_gets(list(source.waits))
        if polls.kept.items:
            polls.kept.settling = True
            polls.kept.back_at = max(polls.kept.back_at, now + SETTLE_S)
    polls.next_at = min(polls.next_at, polls.quiet_at)


def _back(polls: QueuePolls, now: float) -> None:
    """Sends kept items back when their time has come (rule 8)."""
    kept = polls.kept
    if now < kept.back_at:
        polls.next_at = min(polls.next_at, kept.back_at)
        return
    if not kept.settling:
        stood = [source for source in polls.sources if source.waits and (not polls.line or source.full)]
        for source in stood:
            polls.close_gets(list(source.waits))
        if stood:
            kept.settling = True
            kept.back_at = now + SETTLE_S
            polls.next_at = min(polls.next_at, kept.back_at)
            return
    kept.back_at = math.inf
    kept.settling = False
    for source in dict.fromkeys(source for _, _, source in kept.items):
        if source not in kept.going:
            polls.actions += kept.next_back(source)


def _rank(source: Source, now: float) -> tuple[int, float]:
    """The rank: a lower one is asked earlier (rule 6)."""
    if not source.under_way and now - source.last_at > UNREAD_S:
        return 0, source.last_at
    return (2 if source.empty else 1), source.last_at
