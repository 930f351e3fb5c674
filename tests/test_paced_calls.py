"""Callbacks that are due at one instant run a few in a turn of the loop, and the tenants take turns."""

import asyncio
from functools import partial

import pytest

from gateway.fairness.loop_time import BURST_S, LoopTime
from gateway.fairness.paced_calls import PacedCalls
from gateway.fairness.turns import SLICE_S


class Turns:
    """Calls that each take a part of a slice, and which of them ran in which turn of the loop."""

    def __init__(self, of_slice: float) -> None:
        self.now_s = 0.0
        self.by_turn: list[list[str]] = []
        self.calls = PacedCalls(clock=lambda: self.now_s)
        self._call_s = SLICE_S * of_slice

    def add(self, tenant: str, name: str) -> None:
        def call() -> None:
            self.now_s += self._call_s
            self.by_turn[-1].append(name)

        self.calls.add(tenant, call)

    async def run(self, turns: int) -> list[list[str]]:
        for _ in range(turns):
            self.by_turn.append([])
            await asyncio.sleep(0)
        return self.by_turn


def test_a_turn_runs_a_slice():
    """A call begins only while the slice of its turn is not over."""

    async def main() -> None:
        turns = Turns(of_slice=0.4)
        for number in range(8):
            turns.add("many", str(number))
        assert await turns.run(4) == [["0", "1", "2"], ["3", "4", "5"], ["6", "7"], []]
        assert not len(turns.calls)

    asyncio.run(main())


def test_none_runs_at_once():
    """A call waits for the next turn, also while others run."""

    async def main() -> None:
        turns = Turns(of_slice=0.1)
        turns.add("a", "first")
        assert not turns.by_turn
        assert await turns.run(1) == [["first"]]
        turns.add("a", "second")
        assert turns.by_turn == [["first"]]
        assert await turns.run(1) == [["first"], ["second"]]

    asyncio.run(main())


def test_tenants_take_turns():
    """A tenant with very many delays another by one call."""

    async def main() -> None:
        turns = Turns(of_slice=1.5)
        for number in range(100):
            turns.add("many", f"many {number}")
        turns.add("few", "few")
        assert (await turns.run(3))[:2] == [["many 0"], ["few"]]

    asyncio.run(main())


def test_calls_are_charged_and_pause():
    """A tenant whose calls use more than its share pauses; the calls of another one and of nobody do not."""

    async def main() -> None:
        now_s = [100.0]
        loop_time = LoopTime(lambda: now_s[0])
        calls = PacedCalls(loop_time, slice_s=10.0, clock=lambda: now_s[0])
        loop_time.asked("quiet")
        ran: list[str] = []

        def call(tenant: str, used_s: float) -> None:
            now_s[0] += used_s
            ran.append(tenant)

        for _ in range(5):
            calls.add("busy", partial(call, "busy", BURST_S))
        calls.add("quiet", partial(call, "quiet", 0.0))
        calls.add("", partial(call, "", BURST_S))
        await asyncio.sleep(0)
        assert ran == ["busy", "quiet", ""]
        assert loop_time.pause_s("busy") > 0
        assert loop_time.may_go_on("")
        now_s[0] += loop_time.pause_s("busy")
        loop_time.asked("quiet")
        async with asyncio.timeout(20):
            while len(ran) < 4:
                await asyncio.sleep(0.001)
        assert ran[3:] == ["busy"]
        calls.add("quiet", partial(call, "quiet", 0.0))  # also while only a tenant that pauses has others
        await asyncio.sleep(0)
        assert ran[4:] == ["quiet"]

    asyncio.run(main())


def test_a_call_that_fails_does_not_end_the_others():
    """The loop reports it, and the next ones run."""

    async def main() -> None:
        calls, ran, reported = PacedCalls(), [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        calls.add("a", lambda: pytest.fail("on purpose"))
        calls.add("a", lambda: ran.append(1))
        for _ in range(3):
            await asyncio.sleep(0)
        assert ran == [1]
        assert len(reported) == 1

    asyncio.run(main())
