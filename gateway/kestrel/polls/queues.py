"""The queues that are polled. Owns which queue has a runner; a queue never has two.

When a full server has room again, waiting queues are offered it in turns: OFFERS queues every STEP_S, tenant by tenant.
Each may ask for as many items as there is room; items beyond the limit go back.

A queue without polls is kept for a moment, because polls that are answered at once come again and can use what is known
of the servers.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Final

from gateway.errors import BackendUnavailable
from gateway.fairness.fair_queue import FairQueue
from gateway.fairness.loop_time import LoopTime
from gateway.fairness.paced_calls import PacedCalls
from gateway.kestrel.counters import Counters
from gateway.kestrel.link import ServerLink
from gateway.kestrel.polls.direct import DirectPoll
from gateway.kestrel.polls.preferred import Candidate, PreferredPoll
from gateway.kestrel.polls.rules import PROOF_S, STEP_S
from gateway.kestrel.polls.runner import LongPoll, QueueRunner

KEPT_S: Final = 0.1  # for the next poll of a consumer that asks again at once
SWEPT: Final = 50  # queues that are forgotten in one turn of the event loop: 1 ms
OFFERS: Final = 2


class PolledQueues:
    """The queues that are polled. waits: the most per queue and server.

    patience_s: the longest time of a poll that does not wait. loop_time: what each tenant uses of the event loop; the
    handling of waits that end counts.
    """

    def __init__(
        self,
        servers: Sequence[ServerLink],
        waits: int,
        patience_s: float,
        counters: Counters,
        loop_time: LoopTime | None = None,
    ) -> None:
        self._servers = servers
        self._waits = waits
        self._patience_s = patience_s
        self._counters = counters
        self._paced = PacedCalls(loop_time)
        self._runners: dict[str, QueueRunner] = {}
        self._unused: dict[QueueRunner, float] = {}
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._starving: FairQueue[QueueRunner] = FairQueue()
        self._unoffered = 0
        self._offer_timer: asyncio.TimerHandle | None = None
        self._over: BackendUnavailable | None = None

    def __len__(self) -> int:
        return len(self._runners) - len(self._unused)

    @property
    def waiters(self) -> int:
        """How many polls are in line, over all queues."""
        return sum(len(runner) for runner in self._runners.values())

    @property
    def open_waits(self) -> int:
        """How many waits are on servers, over all queues."""
        return sum(runner.open_waits for runner in self._runners.values())

    def wait(self, key: str, timeout_s: float, tenant: str = "") -> LongPoll | DirectPoll:
        """A poll of `key`, a queue of `tenant`. `timeout_s` 0 asks each server and does not wait."""
        return self.take(key, timeout_s, tenant) or self._line_up(key, tenant, next(self._order), timeout_s)

    def take(self, key: str, timeout_s: float, tenant: str, after: object | None = None) -> DirectPoll | None:
        """A poll that takes an item at once; None if it must line up. after: see DirectPoll.start."""
        runner = self._runners.get(key)
        if len(self._servers) != 1 or (runner is not None and runner not in self._unused):
            return None
        poll = DirectPoll(asyncio.get_running_loop(), timeout_s, partial(self._line_up, key, tenant, next(self._order)))
        return poll if poll.start(self._servers[0], key, tenant, after) else None

    def _line_up(self, key: str, tenant: str, order: int, timeout_s: float) -> LongPoll:
        runner = self._runner(key, tenant)
        patience_s = PROOF_S if timeout_s > 0 else self._patience_s
        poll = LongPoll(runner, timeout_s, patience_s, order)
        runner.came(poll)
        return poll

    def wait_in_order(self, keys: Sequence[str], timeout_s: float, tenant: str = "") -> PreferredPoll:
        """One poll of several queues of `tenant`: the first of them that has an item is served."""

        def begin(key: str, wait_s: float, patience_s: float, changed: Callable[[], None]) -> Candidate:
            runner = self._runner(key, tenant)
            candidate = Candidate(runner, wait_s, patience_s, next(self._order), changed)
            runner.came(candidate)
            return candidate

        return PreferredPoll(keys, max(0.0, timeout_s), begin)

    def stored(self, key: str, server: ServerLink, count: int) -> None:
        """`count` items were stored on the server."""
        if (runner := self._runners.get(key)) is not None:
            runner.stored(server, count)

    def set_servers(self, servers: Sequence[ServerLink]) -> None:
        """Uses these servers from now on, also for current polls."""
        self._servers = servers
        for runner in list(self._runners.values()):
            runner.set_servers(servers)

    def server_changed(self, server: ServerLink) -> None:
        """A server answers again, or no longer delivers items."""
        for runner in list(self._runners.values()):
            runner.server_changed(server)

    def room(self) -> None:
        """A full server has room again: offers it once to each queue that waits for room."""
        self._unoffered = len(self._starving)
        if self._offer_timer is None:
            self._offer()

    def close(self, error: BackendUnavailable) -> None:
        """Ends every poll with `error`, also future ones."""
        self._over = error
        for timer in (self._timer, self._offer_timer):
            if timer is not None:
                timer.cancel()
        for runner in self._unused:
            del self._runners[runner.key]
        self._unused.clear()
        self._starving = FairQueue()
        for runner in list(self._runners.values()):
            runner.close(error)

    def _runner(self, key: str, tenant: str) -> QueueRunner:
        """The runner of the queue, which is now in use."""
        runner = self._runners.get(key)
        if runner is None:
            runner = self._runners[key] = self._new(key, tenant)
        elif runner in self._unused:
            del self._unused[runner]
        return runner

    def _new(self, key: str, tenant: str) -> QueueRunner:
        runner = QueueRunner(
            key,
            tenant,
            self._servers,
            self._counters,
            waits=self._waits,
            patience_s=self._patience_s,
            paced=self._paced,
            forget=self._forget,
            starve=self._starve,
        )
        if self._over is not None:
            runner.close(self._over)
        return runner

    def _starve(self, runner: QueueRunner) -> None:
        self._starving.put(runner.tenant, runner)

    def _offer(self) -> None:
        self._offer_timer = None
        self._unoffered = min(self._unoffered, len(self._starving))
        for _ in range(min(OFFERS, self._unoffered)):
            self._unoffered -= 1
            self._starving.get().offer()  # goes behind the tenant's other queues if it still needs room
        if self._unoffered:
            self._offer_timer = asyncio.get_running_loop().call_later(STEP_S, self._offer)

    def _forget(self, runner: QueueRunner) -> None:
        """The runner is no longer needed."""
        if self._over is not None:
            if self._runners.pop(runner.key, None) is not None:
                runner.end()
        elif runner not in self._unused:
            self._unused[runner] = runner.loop.time()
            if self._timer is None:
                self._timer = runner.loop.call_later(KEPT_S, self._sweep, runner.loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for count, (runner, since) in enumerate(list(islice(self._unused.items(), SWEPT + 1))):
            if count == SWEPT or now - since < KEPT_S:
                self._timer = loop.call_later(STEP_S if count == SWEPT else KEPT_S, self._sweep, loop)
                break
            del self._unused[runner], self._runners[runner.key]
            runner.end()
            self._starving.remove(runner.tenant, runner)
