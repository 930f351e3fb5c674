"""The cap on a tenant's queues: what counts, when Kestrel is asked, and who goes first."""

import asyncio
from typing import Any

import pytest

from gateway.coverage import Coverage
from gateway.delivery.queues.catalog import Catalog
from gateway.delivery.queues.known import KnownQueues
from gateway.delivery.queues.quota import Quota
from gateway.errors import BackendUnavailable, TooManyQueues
from gateway.fairness.turns import Turns
from gateway.names.namespace import Namespace


class Keys:
    """The existing queues. held: while it is clear, questions get no answer."""

    def __init__(self, *keys: str) -> None:
        self.names = set(keys)
        self.asked = 0
        self.away = False
        self.held = asyncio.Event()
        self.held.set()

    async def keys(self):
        self.asked += 1
        found = frozenset(self.names)
        await self.held.wait()
        if self.away:
            raise BackendUnavailable("no server can be asked")
        return found


def with_quota(work, *keys: str, limit: int = 2):
    async def go():
        catalog = Catalog(Namespace())
        there: Any = Keys(*keys)
        quota = Quota(there, KnownQueues(there, catalog, Turns()), limit)
        await work(quota, there, lambda name: catalog.queue("", name))

    asyncio.run(go())


def test_what_is_being_made_counts():
    """Kestrel does not name it yet; when it was not made after all, there is room again."""

    async def work(quota, there, queue):
        with await quota.room(queue("b")):
            with pytest.raises(TooManyQueues):
                await quota.room(queue("c"))
            with await quota.room(queue("a")), await quota.room(queue("b")):
                pass
        with await quota.room(queue("c")):
            there.names.add("c")
        with pytest.raises(TooManyQueues):
            await quota.room(queue("b"))

    with_quota(work, "a")


def test_no_refusal_rests_on_what_was_before():
    """A question that was asked before the caller came does not do; a queue deleted since makes room."""

    async def work(quota, there, queue):
        there.held.clear()
        first = asyncio.create_task(quota.room(queue("c")))
        while not there.asked:
            await asyncio.sleep(0)
        there.names.remove("b")
        second = asyncio.create_task(quota.room(queue("d")))
        await asyncio.sleep(0)
        there.held.set()
        with pytest.raises(TooManyQueues):
            await first
        with await second:
            there.names.add("d")

    with_quota(work, "a", "b")


def test_refusals_share_questions():
    """A hundred at once cost a few, not a hundred; the queues that are there cost none."""

    async def work(quota, there, queue):
        rooms = await asyncio.gather(*(quota.room(queue(f"c{n}")) for n in range(100)), return_exceptions=True)
        assert all(isinstance(each, TooManyQueues) for each in rooms)
        assert there.asked <= 3
        asked = there.asked
        for name in ("a", "b", "a"):
            with await quota.room(queue(name)):
                pass
        assert there.asked == asked

    with_quota(work, "a", "b")


def test_callers_leave_in_the_order_they_came():
    """Also those who come while a question is under way, and just after it."""

    async def work(quota, there, queue):
        order = []

        async def come(number):
            with await quota.room(queue("q")):
                order.append(number)

        there.held.clear()
        async with asyncio.TaskGroup() as tasks:
            for number in range(20):
                tasks.create_task(come(number))
                await asyncio.sleep(0)
                if number == 9:
                    there.held.set()
        assert order == list(range(20))

    with_quota(work)


def test_a_thousand_callers_for_a_new_queue_leave_in_a_few_turns_of_the_loop():
    """Those who wait while one of them asks all leave after its answer, not one a turn."""

    async def work(quota, there, queue):
        left = []

        async def come(number):
            with await quota.room(queue("q")):
                left.append(number)

        there.held.clear()
        callers = [asyncio.create_task(come(number)) for number in range(1000)]
        while not there.asked:
            await asyncio.sleep(0)
        there.held.set()
        turns = 0
        while len(left) < len(callers):
            await asyncio.sleep(0)
            turns += 1
        assert turns < 20
        assert left == list(range(1000))

    with_quota(work)


def test_where_nobody_can_be_asked_whatever_comes_next_tells():
    """No refusal, and the next caller asks again."""

    async def work(quota, there, queue):
        there.away = True
        for _ in range(2):
            with await quota.room(queue("c")):
                pass
        assert there.asked == 2
        there.away = False
        with pytest.raises(TooManyQueues):
            await quota.room(queue("c"))

    with_quota(work, "a", "b")


class Many(Keys):
    """Ten thousand queues of others, and what is asked for one of them."""

    def __init__(self, *keys: str) -> None:
        super().__init__(*keys, *(f"b__q{number}" for number in range(10_000)))
        self.asked_one = 0

    async def missing(self, key):
        self.asked_one += 1
        return None if key in self.names else Coverage(1, 1)


def test_many_queues_of_others_cost_a_tenant_nothing():
    """New names and refusals ask for none of them; one question for the one queue is what a refusal costs."""

    async def go():
        catalog = Catalog(Namespace(tenanted=True))
        there: Any = Many("a__one")
        quota = Quota(there, KnownQueues(there, catalog, Turns()), 3)
        with await quota.room(catalog.queue("a", "one")):
            pass
        for name in ("two", "three"):
            with await quota.room(catalog.queue("a", name)):
                pass
        assert (there.asked, there.asked_one) == (1, 0)
        for _ in range(5):
            with pytest.raises(TooManyQueues):
                await quota.room(catalog.queue("a", "four"))
        assert (there.asked, there.asked_one) == (1, 5)
        there.names.add("a__four")  # by a memcache client
        with await quota.room(catalog.queue("a", "four")):
            pass
        with await quota.room(catalog.queue("a", "four")):
            pass
        assert (there.asked, there.asked_one) == (1, 6)

    asyncio.run(go())


def test_what_is_known_is_corrected_in_the_background():
    """Queues deleted elsewhere make room soon; those learnt during the look stay, those deleted here do not."""

    async def go():
        catalog = Catalog(Namespace())
        there: Any = Keys("a", "b")
        known = KnownQueues(there, catalog, Turns())
        assert await known.corrected()
        assert known.keys("") == ["a", "b"]
        there.names = {"b", "d"}
        there.held.clear()
        correction = known.correct_later()
        while there.asked < 2:
            await asyncio.sleep(0.01)
        known.learn(catalog.queue("", "c"))
        known.forget(catalog.queue("", "d"))
        there.held.set()
        assert await correction
        assert known.keys("") == ["b", "c"]

    asyncio.run(go())
