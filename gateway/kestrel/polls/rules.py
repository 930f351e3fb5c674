"""The rules of the polls of one queue, and their times in seconds and numbers of gets.

A waiter first asks: each server gets a get without `t=`, called a take. If all are empty and the waiter has time left,
it waits, and gets with `t=` (blocked gets), called waits, stay on the servers. At its deadline it asks once more.
On the embedded broker a poll first takes an item without these rules if no other poll of the queue waits
(gateway.kestrel.polls.direct).

1. The first in line is served first, whichever get brought the item. The line is in the order of arrival; a waiter
   whose item was lost is first again.
2. Takes run in parallel, each for its own item. An empty answer counts for each waiter that came before its take was
   sent. While a server's last answer is empty, it has one take at a time.
3. A waiter that comes while others wait, or while a wait is on a server, waits at once: there is nothing to take.
4. A poll ends empty only if a final take, sent at its end, has found nothing. A server that has answered nothing at
   all is left out: after the poll's `patience_s`, or after PROOF_S, if that is less and another server has
   answered the take. The answer says how many servers were asked; if none was asked, the poll fails.
5. Each server has one wait for each waiter, up to `limit`. All servers together have at most QUEUE_GETS; with more
   servers than that the waits move between them, so that each server is read within a second.
6. With several servers, never more gets begin within STEP_S than there are waiters, so that a few polls on full queues
   do not take an item from every server. A server that was not read for UNREAD_S comes first, one that was empty last,
   otherwise the one with the oldest answer. For its first STEP_S a waiter that asks uses only one server, unless all
   were empty.
7. A server that is full, or has no place for a get of this queue, is left out. If all servers are like that, new
   waiters are refused and current ones keep waiting. A queue that has a wait on a server may send one take there even
   without a free place.
8. Items that arrive while no waiter is in line are kept for the next one for LINGER_S (with one server GATHER_S). Then
   they go back: for each server one at a time, the newest first, and none while a waiter has not fetched a newer one.
   No wait of this queue is on the server then, or it would get them. Items from a full server go back, too.
9. A get is closed only when no waiter is in line, when items go back, and when its server is removed.
10. A get whose connection ends is sent again, at first at once, then after growing pauses; a take fails for its waiters
    the second time. Gets that end together count once.
11. A server that answers a wait with nothing before half its time is over does not support waiting (Siberite), or the
    queue was deleted. From the second time in a row one wait at a time is sent, in growing slices, until an item comes
    or one waits to its end.
12. If a wait is silent CHECK_S after an item was stored on its server, it is not relied on: one take asks. Source:
    kestrel-wire.md, "Lost wake-up". The server's `longest_wait_s` limits the delay of items from other writers.
"""

from __future__ import annotations

from typing import Final

QUEUE_GETS: Final = 32
STEP_S = 0.005
LINGER_S, QUIET_S = 0.05, 1.0
GATHER_S, SETTLE_S, TURN_S = 0.005, 0.005, 0.0005
"""Answers of several gets to one event come within GATHER_S; items that go back have SETTLE_S until the next get may
find them; TURN_S is a turn of the event loop. LINGER_S and QUIET_S: how long a wait outlives its last waiter with
several servers, and with one."""
UNREAD_S: Final = 0.5
PROOF_S: Final = 0.25
CHECK_S: Final = 0.05
FIRST_SLICE_S, LONGEST_SLICE_S, SLICE_GROWTH = 0.02, 0.25, 1.5  # rule 11
