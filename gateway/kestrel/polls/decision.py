"""What to do after an event of a queue's polls: `assign` is the one decision function, and carries out nothing.

It changes the state only to record its decisions. The rules: gateway.kestrel.polls.rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

from gateway.kestrel.polls.rules import GATHER_S, LINGER_S, PROOF_S, QUEUE_GETS, QUIET_S, SETTLE_S, STEP_S, UNREAD_S
from gateway.kestrel.polls.state import QueuePolls, join
from gateway.kestrel.polls.values import EndReason, Give, PollAction, ServerQueue, Waiter, WaiterPhase, usable


def try_join_takes(polls: QueuePolls, waiter: Waiter, now: float) -> bool:
    """Adds the waiter without a decision if it only needs the takes under way. Otherwise returns False: call `came`.

    Afterwards the state is the same as after `came` and `assign`. No other event may be undecided.
    """
    silence_at = min(polls.silence_at, now + min(PROOF_S, waiter.patience_s))
    queues = polls.queues
    if polls.waiting or polls.kept.items or silence_at <= now or not queues:
        return False
    for queue in queues:
        limit = 1 if queue.empty else queue.limit
        if queue.waits or len(queue.takes) < limit or (not queue.empty and len(queues) > 1):
            return False
    for queue in queues:
        queue.look()
        if not queue.delivers or queue.item_room <= 0:
            return False
    if waiter.deadline <= now:
        waiter.ending = True
    polls.number += 1
    waiter.since = polls.number
    waiter.since_at = waiter.alone_until = now
    join(polls.line, waiter)
    polls.askers[waiter] = None
    polls.silence_at = polls.next_at = silence_at
    return True


def assign(polls: QueuePolls, now: float) -> list[PollAction]:
    """What to do now, in this order. The state counts it as done."""
    polls.next_at = math.inf
    polls.starving = False
    delivers = False
    for queue in polls.queues:
        queue.look()
        delivers = delivers or queue.delivers
    if polls.kept.items:
        _match(polls, now)
    if polls.arrived or polls.askers:
        able = [queue for queue in polls.queues if (queue.delivers or not delivers) and not queue.shut]
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
        _, item, queue = each
        if item.lost:
            kept.items.remove(each)
        elif polls.line and queue.item_room >= 0:
            kept.items.remove(each)
            waiter, _ = polls.line.popitem(last=False)
            polls.pause(waiter)
            waiter.move(WaiterPhase.GIVEN)
            waiter.item, waiter.queue = item, queue
            polls.given.add(waiter)
            polls.actions.append(Give(waiter, item))
    if not kept.items:
        kept.back_at = math.inf
        kept.settling = False
    elif kept.keep_s is not None:
        keep_s = kept.keep_s if any(queue.item_room >= 0 for _, _, queue in kept.items) else 0.0
        if keep_s < GATHER_S and any(get.sent for each in polls.queues for get in [*each.takes, *each.waits]):
            keep_s = GATHER_S
        kept.back_at = now + keep_s
    kept.keep_s = None


def _refuse(polls: QueuePolls) -> None:
    """Ends the calls of new waiters while every server that delivers items is shut (rule 7)."""
    for queue in polls.queues:
        if queue.delivers:
            for waiter in polls.arrived:
                if waiter in polls.line:
                    polls.end(waiter, *_trouble(queue))
            return


def _conclude(polls: QueuePolls, now: float, able: Sequence[ServerQueue]) -> None:
    """Uses the results of takes: waiters that have asked every server wait, or end (rules 3 and 4)."""
    done = polls.number
    for queue in able:
        done = min(done, queue.done)
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


def _silent_at(polls: QueuePolls, waiter: Waiter, able: Sequence[ServerQueue]) -> float:
    """The time from which the waiter need not wait for its takes."""
    proved = any(queue.proved >= waiter.since for queue in polls.queues)
    patience_s = min(PROOF_S, waiter.patience_s) if proved else waiter.patience_s
    silent_at = max((queue.server.heard_at for queue in able if queue.done < waiter.since), default=waiter.since_at)
    return min(max(silent_at, waiter.since_at) + patience_s, waiter.since_at + polls.patience_s)


def _asked(polls: QueuePolls, waiter: Waiter) -> None:
    if not waiter.ending:
        polls.pause(waiter)
        polls.start_waiting(waiter)
        return
    asked = 0
    for queue in polls.queues:
        if queue.proved >= waiter.since:
            asked += 1
    why: tuple[EndReason, ServerQueue | None] = (EndReason.EMPTY, None) if asked else _unasked(polls, waiter)
    polls.end(waiter, *why, asked=asked)


def _unasked(polls: QueuePolls, waiter: Waiter) -> tuple[EndReason, ServerQueue | None]:
    """Why no server was asked."""
    if not polls.queues:
        return EndReason.NO_SERVER, None
    for queue in polls.queues:
        if queue.delivers and queue.server.full_at >= waiter.joined_at:
            return EndReason.FULL, queue
    return _trouble(next((queue for queue in polls.queues if queue.shut), polls.queues[0]))


def _trouble(queue: ServerQueue) -> tuple[EndReason, ServerQueue]:
    if not queue.delivers:
        return EndReason.DOWN, queue
    if queue.shut:
        return (EndReason.FULL if queue.full else EndReason.CROWDED), queue
    if queue.error is not None:
        return EndReason.FAILED, queue
    sent = any(get.sent for get in [*queue.takes, *queue.waits])
    return (EndReason.SILENT if sent else EndReason.UNCONNECTED), queue


def _take(polls: QueuePolls, now: float, able: Sequence[ServerQueue]) -> None:
    """Sends takes for waiters that ask (rules 2 and 6)."""
    alone = 0
    if len(able) > 1:
        heard = max(queue.done for queue in able)
        for waiter in reversed(polls.askers):
            if waiter.since <= heard or waiter.alone_until <= now:
                break
            alone += 1
            polls.next_at = min(polls.next_at, waiter.alone_until)
    under_way = 0
    for queue in able:
        limit = 1 if queue.empty else queue.limit
        need = 0
        for waiter in islice(reversed(polls.askers), alone, None):
            if waiter.since <= queue.done or need >= limit:
                break
            need += 1
        if need > len(queue.takes):
            for _ in range(min(need - len(queue.takes), queue.take_room())):
                polls.send(queue, now, waits=False)
        under_way += len(queue.takes)
    for _ in range(alone - under_way):
        likely = [each for each in able if each.likely and len(each.takes) < each.limit and each.take_room()]
        if not likely:
            break
        polls.send(min(likely, key=lambda each: each.last_at), now, waits=False)


def _check(polls: QueuePolls, now: float) -> None:
    """Sends takes where a wait should have brought an item by now (rule 12)."""
    for queue in polls.queues:
        if queue.check_at > now:
            polls.next_at = min(polls.next_at, queue.check_at)
            continue
        queue.check_at = math.inf
        oldest = next(iter(queue.waits), None)
        if queue.takes or oldest is None or oldest.sent_at > queue.stored_at:
            continue
        if queue.take_room():
            polls.send(queue, now, waits=False)


def _wait(polls: QueuePolls, now: float) -> None:
    """Sends waits for waiters that wait (rules 5 and 6)."""
    if polls.furthest - now < STEP_S:
        return
    for queue in polls.queues:
        if queue.retry_at > now:
            polls.next_at = min(polls.next_at, queue.retry_at)
    queues = usable(polls.queues)
    if len(polls.queues) == 1:
        queue = queues[0]
        count = queue.wants(polls.waiting, now)
        for _ in range(count):
            polls.send(queue, now, waits=True)
        polls.starving = not count and queue.shut
        return
    polls.starving = any(queue.shut for queue in polls.queues)
    waits = [get for queue in polls.queues for get in queue.waits]
    free = polls.waiting - sum(now - get.begun_at < STEP_S for get in waits)
    left = QUEUE_GETS - len(waits)
    room = {queue: count for queue in queues if (count := queue.wants(polls.waiting, now))}
    for _ in range(min(free, left)):
        if not room:
            break
        queue = min(room, key=lambda each: _rank(each, now))
        polls.send(queue, now, waits=True)
        room[queue] -= 1
        if not room[queue]:
            del room[queue]
        left -= 1
    if room and left > 0:
        polls.next_at = min(polls.next_at, now + STEP_S)


def _rest(polls: QueuePolls, now: float) -> None:
    """No waiter is in line (rule 9)."""
    waits = False
    for queue in polls.queues:
        queue.retry_at = -math.inf
        queue.check_at = math.inf
        queue.unseen = 0
        if queue.takes or queue.waits:
            polls.close_gets([get for get in [*queue.takes, *queue.waits] if not get.sent])
            waits = waits or bool(queue.waits)
    if not waits:
        polls.quiet_at = math.inf
    elif polls.quiet_at == math.inf:
        polls.quiet_at = now + (LINGER_S if len(polls.queues) > 1 else QUIET_S)
    elif now >= polls.quiet_at:
        polls.quiet_at = math.inf
        for queue in polls.queues:
            polls.close_gets(list(queue.waits))
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
        stood = [queue for queue in polls.queues if queue.waits and (not polls.line or queue.full)]
        for queue in stood:
            polls.close_gets(list(queue.waits))
        if stood:
            kept.settling = True
            kept.back_at = now + SETTLE_S
            polls.next_at = min(polls.next_at, kept.back_at)
            return
    kept.back_at = math.inf
    kept.settling = False
    for queue in dict.fromkeys(queue for _, _, queue in kept.items):
        if queue not in kept.going:
            polls.actions += polls.kept.next_back(queue, polls.given)
    polls.next_at = min(polls.next_at, now + SETTLE_S) if kept.back_at < math.inf else polls.next_at


def _rank(queue: ServerQueue, now: float) -> tuple[int, float]:
    """The rank: a lower one is asked earlier (rule 6)."""
    if not queue.under_way and now - queue.last_at > UNREAD_S:
        return 0, queue.last_at
    return (2 if queue.empty else 1), queue.last_at
