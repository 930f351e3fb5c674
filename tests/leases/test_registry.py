"""The registry of leases against a plain model: whatever is done in whatever order, the counts balance."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from gateway.common.states import IllegalMoveError
from gateway.errors import BackendRefused, GatewayError, LeaseForgotten, LeaseLost, TooManyLeases
from gateway.leases.known import OUTCOME_NAMES
from gateway.leases.lease import MOVES, Lease, LeaseRecord, State
from tests.lab.examples import examples
from tests.leases.support import LIMIT, Item, balanced, opened, registry, within


class LeaseCounts(RuleBasedStateMachine):
    """Takes, settles, loses, expires and repeats in any order; the model is each lease's first answer."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.tasks = asyncio.TaskGroup()
        self.run(self.tasks.__aenter__())
        self.registry = registry(self.tasks)
        self.model: dict[str, State] = {}
        self.items: dict[str, Item] = {}

    def run(self, work):
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.registry.close()
        self.run(self.tasks.__aexit__(None, None, None))
        assert (balanced(self.registry.leases.statistics()), self.registry.leases.statistics().open) == (True, 0)
        self.loop.close()
        for item in self.items.values():
            assert len(item.ends) <= 1, "an item was settled twice"

    @rule(target=leases)
    def take(self):
        item = Item()

        async def go():
            return opened(self.registry, item)

        if len(self.registry.leases) >= LIMIT:
            with pytest.raises(TooManyLeases):
                self.run(go())
            return None
        lease = self.run(go())
        self.model[lease.id] = State.HELD
        self.items[lease.id] = item
        return lease.id

    @rule(
        lease=leases,
        wanted=st.sampled_from([State.ACKED, State.NACKED, State.REJECTED]),
        fate=st.sampled_from(["done", "lost", "unknown", "refused"]),
    )
    def settle(self, lease, wanted, fate):
        if lease is None:
            return
        self.items[lease].fate = fate
        if self.model[lease] is State.HELD:
            ends = {"done": wanted, "lost": State.LOST, "unknown": State.UNKNOWN, "refused": State.LOST}
            self.model[lease] = ends[fate]
        calls: dict[State, Callable[[str], Coroutine[Any, Any, LeaseRecord]]] = {
            State.ACKED: self.registry.ack,
            State.NACKED: self.registry.nack,
            State.REJECTED: self.registry.reject,
        }
        if self.model[lease] is wanted or (wanted is State.NACKED and self.model[lease] is State.DELAYED):
            self.run(calls[wanted](lease))
        else:
            with pytest.raises(GatewayError):
                self.run(calls[wanted](lease))

    @rule(lease=leases)
    def postpone(self, lease):
        if lease is None:
            return
        if self.model[lease] is State.HELD:
            self.model[lease] = State.DELAYED
        if self.model[lease] in (State.DELAYED, State.NACKED):
            self.run(self.registry.nack(lease, delay_s=500))
        else:
            with pytest.raises(GatewayError):
                self.run(self.registry.nack(lease, delay_s=500))

    @rule(lease=leases)
    def lose(self, lease):
        if lease is not None:
            self.items[lease].tell_lost()
            if self.model[lease] is State.HELD:
                self.model[lease] = State.LOST
            elif self.model[lease] is State.DELAYED:
                self.model[lease] = State.NACKED

    @rule(lease=leases)
    def reach_nobody(self, lease):
        if lease is not None:
            self.run(self._give_back(lease))
            if self.model[lease] is State.HELD:
                self.model[lease] = State.RETURNED

    async def _give_back(self, lease):
        held: Any = self.registry.leases.find(lease)
        self.registry.give_back(held)
        await asyncio.sleep(0.001)

    @rule(lease=leases)
    def extend(self, lease):
        if lease is None:
            return
        if self.model[lease] is State.HELD:
            self.run(self.registry.extend(lease, 500))
        else:
            with pytest.raises(GatewayError):
                self.run(self.registry.extend(lease, 500))

    @rule()
    def drop(self):
        held = [lease for lease, state in self.model.items() if state in (State.HELD, State.DELAYED)]
        assert self.run(self.registry.drop_queue("q")) == len(held)
        self.model |= dict.fromkeys(held, State.DROPPED)

    @invariant()
    def books_balance(self):
        counts = self.registry.leases.statistics()
        states = list(self.model.values())
        assert counts.delivered == len(states)
        assert counts.delayed == states.count(State.DELAYED)
        assert counts.open == states.count(State.HELD) + counts.delayed
        assert balanced(counts)
        for lease, state in self.model.items():
            assert self.registry.leases.find(lease).state is state


LeaseCounts.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=30)
TestLeaseCounts = LeaseCounts.TestCase


def test_two_settlements_at_once_give_one_answer_each():
    """Ack and nack at the same moment: the first one wins, and the second one's error says so."""

    async def work(tasks):
        leases = registry(tasks)
        item = Item()
        lease = opened(leases, item)
        results = await asyncio.gather(
            leases.ack(lease.id), leases.ack(lease.id), leases.nack(lease.id), return_exceptions=True
        )
        assert [getattr(each, "code", "done") for each in results] == ["done", "done", "lease-settled"]
        assert item.ends == ["confirmed"]

    within(work)


def test_a_cancelled_settlement_goes_on():
    """A request that is cancelled in the middle of its ack leaves no lease half settled."""

    async def work(tasks):
        leases = registry(tasks)
        item = Item()
        lease = opened(leases, item)
        request = asyncio.create_task(leases.ack(lease.id))
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await leases.ack(lease.id)
        assert item.ends == ["confirmed"]

    within(work)


def test_leases_expire_in_the_order_of_their_deadlines():
    """Whatever the order of opening and extending, each item goes back at its own time."""

    async def work(tasks):
        leases = registry(tasks)
        ended: list[str] = []
        leases.leases.on_end(lambda lease: ended.append(lease.queue))
        lengths = {"late": 0.3, "soon": 0.1, "middle": 0.25, "extended": 0.2}
        made = {name: opened(leases, Item(), length_s, queue=name, job_id=None) for name, length_s in lengths.items()}
        await leases.extend(made["extended"].id, 0.4)
        while len(ended) < len(lengths):
            await asyncio.sleep(0.005)
        assert ended == ["soon", "middle", "late", "extended"]

    within(work)


def test_extending_for_ever_keeps_the_heap_small():
    """Ten thousand extensions of one lease do not pile up."""

    async def work(tasks):
        leases = registry(tasks)
        lease = opened(leases, Item())
        for _ in range(10_000):
            await leases.extend(lease.id, 100)
        assert len(leases.leases.deadlines) < 3000
        leases.close()

    within(work)


def test_memory_of_ended_leases_is_bounded():
    """The oldest ends are forgotten first, and a forgotten lease says that it is."""

    async def work(tasks):
        leases = registry(tasks, memory_limit=3)
        made = []
        for _ in range(5):
            lease = opened(leases, Item())
            await leases.ack(lease.id)
            made.append(lease.id)
        assert leases.leases.statistics().remembered == 3
        with pytest.raises(LeaseForgotten):
            leases.leases.find(made[0])
        await leases.ack(made[4])

    within(work)


def test_no_state_leads_back():
    """Every state reaches an end, and no end leads anywhere, except that an unknown outcome may become known."""
    ends = set(State) - {State.HELD, State.DELAYED, State.SETTLING}
    assert {State.HELD, State.DELAYED, State.SETTLING, State.UNKNOWN} == set(MOVES)
    assert MOVES[State.UNKNOWN] == {State.ACKED, State.LOST, State.DROPPED}
    assert all(MOVES[state] <= ends | {State.SETTLING, State.DELAYED} for state in MOVES)
    assert set(OUTCOME_NAMES) == ends
    with pytest.raises(IllegalMoveError, match="cannot go"):
        Lease("i", "", "q", "k", None, "", 1, 0, 0, 0, 0, None, None, State.ACKED).move(State.HELD)


def test_a_refused_ack_says_so_once_and_the_lease_is_lost():
    """Kestrel's refusal is reported as one, not as an unknown outcome; a repetition learns that the job is back."""

    async def main():
        async with asyncio.TaskGroup() as tasks:
            leases = registry(tasks)
            item = Item()
            item.fate = "refused"
            lease = opened(leases, item)
            with pytest.raises(BackendRefused, match="as told; the job is back on its queue"):
                await leases.ack(lease.id)
            assert lease.state is State.LOST
            with pytest.raises(LeaseLost):
                await leases.ack(lease.id)
            leases.close()

    asyncio.run(main())
