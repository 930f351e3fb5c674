"""Both ends of the connection over bytes in memory, in random interleavings: nothing is stranded or answered twice.

The broker's queues, committer and database are the real ones. Time, commits and the delivery of bytes are the test's.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, cast

import pytest

from gateway.broker.broker import Broker, Options, Status
from gateway.broker.client_log import ClientLog
from gateway.broker.connections import Connections
from gateway.broker.counters import BrokerCounters
from gateway.broker.multiplex.connection import MultiplexedConnection
from gateway.common.multiplex.frames import FrameKind
from gateway.common.multiplex.messages import Code, pack_ids
from gateway.common.multiplex.protocol import FrameConnection
from gateway.kestrel.multiplex.channel import BrokerChannel
from tests.broker.steps import Steps
from tests.lab.examples import examples

NEVER_S = 1e9
"""The worker's own time limits; a wait ends on the broker."""
LIMIT_BYTES = 3
"""Of the open items of every second world."""


class Timer:
    """A call that was scheduled. Like asyncio.TimerHandle."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    """A loop whose time the test sets."""

    def __init__(self, steps: Steps) -> None:
        self.now = 0.0
        self.soon: deque[Callable[[], object]] = deque()
        self.timers: list[tuple[float, int, Timer]] = []
        self.numbers = itertools.count()
        self.create_future = steps.loop.create_future

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[..., object], *args: object) -> None:
        self.soon.append(lambda: call(*args))

    def call_later(self, delay_s: float, call: Callable[..., object], *args: object) -> Timer:
        timer = Timer(lambda: call(*args))
        heapq.heappush(self.timers, (self.now + delay_s, next(self.numbers), timer))
        return timer

    def run_soon(self) -> None:
        if self.soon:
            self.soon.popleft()()

    def advance(self) -> None:
        """The next timer."""
        while self.timers and self.timers[0][0] < NEVER_S:
            self.now, _, timer = heapq.heappop(self.timers)
            if timer.call is not None:
                timer.call()
                return


class Pipe:
    """A transport in memory: what one end writes waits until the test delivers it."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.to: FrameConnection | None = None
        self.paused = False
        self.over = False

    def write(self, data: bytes) -> None:
        self.waiting += data

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.over = True

    abort = close


def deliver(pipe: Pipe, back: Pipe, most: int) -> None:
    """Some of what waits in `pipe`, to an end that writes to `back`."""
    assert pipe.to is not None
    if not pipe.waiting or back.paused or pipe.over:
        return
    room = pipe.to.get_buffer(-1)
    some = bytes(pipe.waiting[: min(most, len(room))])
    room[: len(some)] = some
    del pipe.waiting[: len(some)]
    pipe.to.buffer_updated(len(some))


class World:
    """A broker with one queue, a worker, and what the worker knows."""

    def __init__(self, steps: Steps, seed: int) -> None:
        self.steps = steps
        self.seed = seed
        self.random = random.Random(seed)
        self.loop = loop = cast(Any, Loop(steps))
        broker = Broker.__new__(Broker)  # without its threads
        broker.loop, broker.queues, broker.committer = loop, steps.queues, steps.committer
        broker.counters, broker._status = BrokerCounters(), Status.UP
        broker.options = Options(data=steps.directory)
        connections = Connections(broker.counters, ClientLog())
        self.out, self.back = cast(Any, Pipe()), cast(Any, Pipe())
        self.broker = MultiplexedConnection(broker, connections)
        self.channel = BrokerChannel(
            loop, NEVER_S, lambda _: None, lambda _: None, open_bytes=LIMIT_BYTES if seed % 2 else 0
        )
        self.out.to, self.back.to = self.broker.frames, self.channel.frames
        self.channel.frames.connection_made(self.out)
        self.broker.frames.connection_made(self.back)
        self.key = b"q%d" % seed
        self.put = 0
        self.stored: set[bytes] = set()
        self.waiting: list[int] = []
        self.held: dict[int, bytes] = {}
        self.asked: set[bytes] = set()  # confirms that were sent
        self.confirmed: set[bytes] = set()
        self.answers: Counter[int] = Counter()
        self.opens = 0

    # What may happen

    def store(self) -> None:
        self.put += 1
        data = b"%d" % self.put
        self.channel.put(self.key, [(0, data)], lambda answer: self.stored.add(data) if answer else None, 0)

    def open(self) -> None:
        self.opens += 1
        id_ = self.channel.open(self.key, self.random.choice((0, 0.001, 1, 5)), lambda answer: self.opened(id_, answer))
        self.waiting.append(id_)

    def opened(self, id_, answer) -> None:
        self.answers[id_] += 1
        self.waiting.remove(id_)
        if answer is not None and answer.kind == FrameKind.ITEM:
            assert answer.payload not in self.confirmed, "a confirmed item came again"
            assert answer.payload not in self.held.values(), "an item is held twice"
            self.held[id_] = answer.payload

    def cancel(self) -> None:
        if self.waiting:
            id_ = self.random.choice(self.waiting)
            self.waiting.remove(id_)
            self.answers[id_] += 1
            self.channel.cancel(id_)

    def settle(self) -> None:
        if self.held:
            id_ = self.random.choice(list(self.held))
            data = self.held.pop(id_)
            if self.random.random() < 0.5:
                self.channel.ask(FrameKind.ABORT, pack_ids((id_,)), lambda _: None)
            else:
                self.asked.add(data)
                self.channel.confirm(id_, lambda code, _: self.settled(data, code))

    def settled(self, data, code) -> None:
        if code is not None:
            assert code is Code.OK
            self.confirmed.add(data)

    def commit(self) -> None:
        self.steps.commit()

    def to_broker(self) -> None:
        deliver(self.out, self.back, self.random.choice((1, 5, 30, 1000)))

    def to_worker(self) -> None:
        deliver(self.back, self.out, self.random.choice((1, 5, 30, 1000)))

    # The end

    def settle_down(self) -> None:
        """Everything that is under way arrives; nothing new begins."""
        for _ in range(1000):
            before = len(self.loop.soon) + len(self.out.waiting) + len(self.back.waiting)
            while self.loop.soon:
                self.loop.run_soon()
            deliver(self.out, self.back, 1 << 16)
            deliver(self.back, self.out, 1 << 16)
            committed = self.steps.commit()
            brought = self.steps.bring()
            if not before and not committed and not brought and not self.loop.soon:
                waiters = self.steps.queues.get(self.key).waiters
                assert waiters.next() is None or not self.steps.queues.get(self.key).backlog.ready, "nobody was served"
                return
        raise AssertionError("it does not come to rest")


def run(steps: Steps, seed: int, turns: int = 40) -> World:
    """One interleaving, until nothing is under way and no open waits."""
    world = World(steps, seed)
    moves = [world.store, world.open, world.open, world.cancel, world.settle, world.commit] + 2 * [
        world.to_broker, world.to_worker, world.loop.run_soon,
    ]  # fmt: skip
    for _ in range(turns):
        world.random.choice(moves)()
        if world.random.random() < 0.05:
            world.loop.advance()
    while world.waiting:
        if world.random.random() < 0.5:
            world.cancel()
        world.settle_down()
        world.loop.advance()
    world.settle_down()
    return world


def check(world: World) -> None:
    """Every open has one answer, and every item is held, confirmed or on its queue, in exactly one of them."""
    assert sum(world.answers.values()) == world.opens
    assert set(world.answers.values()) <= {1}
    queue = world.steps.queues.get(world.key)
    assert not queue.waiters
    assert world.seed % 2 == 0 or sum(map(len, world.held.values())) <= LIMIT_BYTES
    assert sorted(read.item.data for read in queue.open_reads._reads) == sorted(world.held.values())
    assert len(world.stored) == world.put
    on_queue = {item.data for item in queue.backlog.ready}
    assert len(on_queue) == queue.backlog.items
    assert on_queue | set(world.held.values()) | world.confirmed == world.stored
    assert queue.backlog.items + len(world.held) + len(world.confirmed) == len(world.stored)


@pytest.fixture
def steps(tmp_path):
    made = Steps(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("seeds", [range(examples(1000)), pytest.param(range(1000, 10_000), marks=pytest.mark.slow)])
def test_no_interleaving_strands_an_item(steps, seeds):
    """Arrival, cancel, time-out, settlement and commit in any order, over bytes cut anywhere: 10,000 of them in all."""
    for seed in seeds:
        world = run(steps, seed)
        check(world)
        world.steps.queues.delete(world.key)
        world.steps.commit_all()


def test_the_end_of_the_connection_in_any_interleaving(steps):
    """Whatever is under way: every item that was not confirmed is on its queue, and nobody waits."""
    for seed in range(1_000_000, 1_000_000 + examples(500)):
        world = World(steps, seed)
        moves = [world.store, world.open, world.settle, world.commit, world.to_broker, world.to_worker]
        moves += [world.cancel, world.loop.run_soon, world.loop.run_soon]
        for _ in range(60):
            world.random.choice(moves)()
        world.broker.frames.connection_lost(None)
        world.channel.frames.connection_lost(None)
        while world.loop.soon:
            world.loop.run_soon()
        while steps.commit() or steps.bring():
            pass
        queue = steps.queues.get(world.key)
        assert not queue.waiters
        assert not queue.open_reads
        assert not world.waiting
        on_queue = {item.data for item in queue.backlog.ready}
        assert world.stored - world.asked <= on_queue
        assert not on_queue & world.confirmed
        assert len(on_queue) == queue.backlog.items
        steps.queues.delete(world.key)
        steps.commit_all()
