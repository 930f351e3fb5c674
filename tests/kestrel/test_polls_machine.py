"""The state of a queue's polls against a plain model: polls, items, answers, losses and time, in any order.

The model (tests.kestrel.polls_world) checks as it goes along who is served, what proves an empty answer, and where each
item is. What is left to check here holds between any two steps, and once everything has come to rest.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.kestrel.polls.rules import QUEUE_GETS
from gateway.kestrel.polls.values import WaiterPhase
from tests.kestrel.polls_world import LONGEST_WAIT_S, World
from tests.lab.examples import examples

PICK = st.integers(0, 1 << 16)


class PollsMachine(RuleBasedStateMachine):
    """One queue on one to three servers."""

    @initialize(
        servers=st.integers(1, 3),
        waits=st.integers(1, 4),
        room=st.sampled_from([1, 2, 100]),
        places=st.sampled_from([1, 3, 100]),
    )
    def begin(self, servers, waits, room, places):
        self.limit = waits
        self.stored = 0
        self.acked = 0
        self.world = World(servers, waits)
        for server in self.world.servers:
            server.item_limit = room
            server.places = places

    def pick(self, things, index):
        return things[index % len(things)]

    # Callers

    @rule(timeout_s=st.sampled_from([0, 0, 0.003, 0.2, 2, 30]))
    def come(self, timeout_s):
        self.world.come(timeout_s)

    @rule(timeouts_s=st.lists(st.sampled_from([0, 0, 2]), min_size=2, max_size=4))
    def come_together(self, timeouts_s):
        for timeout_s in timeouts_s:
            self.world.come(timeout_s)

    @precondition(lambda self: self.world.line)
    @rule(index=PICK)
    def leave(self, index):
        self.world.leave(self.pick(self.world.line, index))

    def given(self):
        return [waiter for waiter in self.world.waiters if waiter.phase is WaiterPhase.GIVEN]

    @precondition(lambda self: self.given())
    @rule(index=PICK, how=st.sampled_from(["fetch", "fetch", "leave", "lose"]))
    def go_on(self, index, how):
        waiter = self.pick(self.given(), index)
        if how == "fetch":
            self.world.fetch(waiter)
            self.acked += 1
        elif how == "leave":
            self.world.leave(waiter)
        else:
            self.world.lose(waiter)

    # Servers

    @rule(index=PICK, wakes=st.booleans(), ours=st.booleans())
    def put(self, index, wakes, ours):
        self.world.put(self.pick(self.world.servers, index), wakes=wakes, ours=ours)
        self.stored += 1

    @precondition(lambda self: self.world.takes)
    @rule(index=PICK)
    def answer(self, index):
        self.world.answer(self.pick(self.world.takes, index))

    @precondition(lambda self: self.world.gets or self.world.unsent)
    @rule(index=PICK)
    def cut(self, index):
        self.world.cut(self.pick(self.world.gets + self.world.unsent, index))

    @rule(connects=st.booleans())
    def connect(self, connects):
        self.world.connects = connects
        self.world.run()

    @rule(index=PICK, reads=st.booleans())
    def change(self, index, reads):
        self.world.set_reads(self.pick(self.world.servers, index), reads)

    @rule(index=PICK, room=st.sampled_from([0, 1, 100]))
    def other_queues_hold(self, index, room):
        """The server holds items for other queues, or no longer; only room is reported."""
        server = self.pick(self.world.servers, index)
        before, server.item_limit = server.item_limit, room
        if room > before:
            self.world.run()

    @precondition(lambda self: self.world.going)
    @rule(index=PICK, seen=st.booleans())
    def go_back(self, index, seen):
        self.world.go_back(self.pick(self.world.going, index), seen=seen)

    # Time

    @rule(for_s=st.sampled_from([0.001, 0.006, 0.06, 0.3]))
    def wait(self, for_s):
        self.world.wait(for_s)

    @rule(for_s=st.sampled_from([0.006, 0.3]))
    def lag(self, for_s):
        self.world.lag(for_s)

    @rule(for_s=st.sampled_from([0.0, 0.006, 0.06, 0.3]))
    def settle(self, for_s):
        self.world.settle(for_s)

    @rule()
    def nothing_lies_there_for_long(self):
        """With servers that answer, each poll is served within a wait's time, whatever wake-ups were lost."""
        world = self.world
        world.connects = True
        world.settle(3)  # the longest pause after cuts
        world.settle(LONGEST_WAIT_S + 0.1)
        for server in world.servers:
            if server.reads and server.figures(0).item_room > 0 and world.line:
                assert not server.queue, "somebody waits, and an item lies there"

    # What holds

    @invariant()
    def every_item_is_in_one_place(self):
        if not hasattr(self, "world"):
            return
        world = self.world
        assert sum(len(server.queue) + len(server.held) for server in world.servers) + self.acked == self.stored

    @invariant()
    def the_line_is_as_the_model_has_it(self):
        if not hasattr(self, "world"):
            return
        world, polls = self.world, self.world.polls
        assert list(polls.line) == world.line
        assert polls.waiting == sum(waiter.phase is WaiterPhase.WAITING for waiter in world.line)
        assert set(polls.askers) == {waiter for waiter in world.line if waiter.phase is WaiterPhase.ASKING}
        assert polls.given == set(self.given())

    @invariant()
    def gets_are_bounded(self):
        if not hasattr(self, "world"):
            return
        waits = 0
        for queue in self.world.polls.queues:
            assert len(queue.waits) <= self.limit
            assert len(queue.takes) <= self.limit
            assert set(queue.server.gets) == {get for get in [*queue.waits, *queue.takes] if get.sent}
            waits += len(queue.waits)
        assert waits <= QUEUE_GETS

    def teardown(self):
        """Every poll ends, every item that no poll has is back, and nothing is kept."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.connects = True
        for server in world.servers:
            server.item_limit = 100
        world.run()
        world.settle(40)
        assert not [waiter for waiter in world.line if waiter.deadline < world.now - 8]
        for waiter in [*world.line, *self.given()]:
            world.leave(waiter)
        world.settle(3)
        assert world.polls.idle
        assert not any(server.held or server.gets or server.taken for server in world.servers)


def test_polls_keep_every_rule_in_any_order():
    """80 runs of up to 40 steps."""
    run_state_machine_as_test(
        PollsMachine,
        settings=settings(max_examples=examples(80), stateful_step_count=40, suppress_health_check=list(HealthCheck)),
    )
