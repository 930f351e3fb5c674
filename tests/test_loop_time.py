"""The event loop's time is shared: a tenant that uses much pauses while another one asks, and no one else does."""

import asyncio
import time

import pytest

from gateway.fairness.loop_time import BURST_S, LATELY_S, LONGEST_PAUSE_S, REFUSED, REFUSED_SHARE, SHARE, LoopTime
from gateway.fairness.turns import Turns


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def work(accounts, clock, tenant, seconds):
    clock.now_s += seconds
    accounts.charge(tenant, seconds)


def test_a_tenant_pauses_as_long_as_its_work_took(clock):
    """What it saved up is used first; after that each piece is followed by a pause that leaves it its share."""
    accounts = LoopTime(clock)
    accounts.asked("quiet")
    accounts.asked("busy")
    while accounts.may_go_on("busy"):
        work(accounts, clock, "busy", 0.001)
    for seconds in (0.001, 0.004, 0.02):
        clock.now_s += accounts.pause_s("busy")
        accounts.asked("quiet")
        work(accounts, clock, "busy", seconds)
        assert accounts.pause_s("busy") == pytest.approx(seconds / SHARE - seconds)
        assert not accounts.may_go_on("busy")
        assert accounts.may_go_on("quiet")


def test_a_tenant_alone_never_pauses(clock):
    """Nor does it when the other one asked long ago, or when only callers without a tenant ask."""
    accounts = LoopTime(clock)
    accounts.asked("quiet")
    clock.now_s += LATELY_S + 0.1
    for _ in range(100):
        accounts.asked("busy")
        accounts.asked("")
        work(accounts, clock, "busy", 0.01)
        assert accounts.may_go_on("busy")
    accounts.asked("quiet")
    assert not accounts.may_go_on("busy")


def test_callers_without_a_tenant_pause_beside_tenants(clock):
    """A flood of requests without keys delays no request with a key."""
    accounts = LoopTime(clock)
    accounts.asked("quiet")
    for _ in range(10):
        accounts.asked("")
        work(accounts, clock, "", 0.01)
    assert not accounts.may_go_on("")
    assert accounts.may_go_on("quiet")


def test_refused_requests_have_a_small_share_of_their_own(clock):
    """They delay neither a probe nor a tenant, and no one pauses for them."""
    accounts = LoopTime(clock)
    accounts.asked("quiet")
    accounts.asked(REFUSED)
    assert not accounts.shared("quiet")
    while accounts.may_go_on(REFUSED):
        work(accounts, clock, REFUSED, 0.001)
    clock.now_s += accounts.pause_s(REFUSED)
    work(accounts, clock, REFUSED, 0.004)
    assert accounts.pause_s(REFUSED) == pytest.approx(0.004 / REFUSED_SHARE - 0.004)
    assert accounts.may_go_on("")
    assert accounts.may_go_on("quiet")


def test_busy_tenants_take_turns_without_pauses(clock):
    """Where every tenant uses more than its share, there is no tenant for which the loop would have to be free."""
    accounts = LoopTime(clock)
    for _ in range(100):
        for tenant in ("busy", "busier"):
            accounts.asked(tenant)
            work(accounts, clock, tenant, 0.01)
    assert accounts.may_go_on("busy")
    assert accounts.may_go_on("busier")
    accounts.asked("quiet")
    assert not accounts.may_go_on("busy")
    assert not accounts.may_go_on("busier")
    assert accounts.may_go_on("quiet")


def test_no_piece_of_work_stops_a_tenant_for_long(clock):
    """A minute of work by mistake is a pause of LONGEST_PAUSE_S."""
    accounts = LoopTime(clock)
    accounts.asked("quiet")
    accounts.asked("busy")
    work(accounts, clock, "busy", 60)
    accounts.asked("quiet")
    assert accounts.pause_s("busy") == pytest.approx(LONGEST_PAUSE_S)


def test_each_step_is_charged_to_whoever_is_known_after_it():
    """Values, errors and cancellation pass through; the time between steps is charged to no tenant."""

    async def main():
        accounts = LoopTime()
        accounts.asked("quiet")
        accounts.asked("busy")
        known = [""]

        async def request():
            known[0] = "busy"
            time.sleep(2 * BURST_S)  # noqa: ASYNC251 (work that holds the loop)
            await asyncio.sleep(2 * BURST_S / SHARE)
            raise KeyError("as it was")

        with pytest.raises(KeyError, match="as it was"):
            await accounts.charged(request(), lambda: known[0])
        assert accounts.may_go_on("")
        assert accounts.may_go_on("busy")  # it had its pause while it slept
        ends = asyncio.Event()

        async def waits():
            try:
                await ends.wait()
            finally:
                time.sleep(2 * BURST_S)  # noqa: ASYNC251

        async def all_of_it():
            await accounts.charged(waits(), lambda: "busy")

        task = asyncio.create_task(all_of_it())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        accounts.asked("quiet")
        assert not accounts.may_go_on("busy")

    asyncio.run(main())


def test_turns_pass_over_a_tenant_that_pauses(clock):
    """The others go on at once, and it goes on when its pause is over, even if no other tenant has work."""

    async def main():
        accounts = LoopTime(clock)
        turns = Turns(accounts)
        accounts.asked("quiet")
        accounts.asked("busy")
        accounts.charge("busy", 0.05)
        pause_s = accounts.pause_s("busy")
        assert pause_s > 0
        paused = asyncio.create_task(turns.next("busy"))
        for _ in range(10):
            await turns.next("quiet")
        await asyncio.sleep(1.5 * pause_s)  # the timer has fired, but by the clock the pause is not over
        assert not paused.done()
        clock.now_s += pause_s
        await asyncio.wait_for(paused, 10)

    asyncio.run(main())


def test_without_tenants_nothing_is_measured():
    """The work itself is awaited, no account grows and no caller pauses."""
    accounts = LoopTime(tenanted=False)

    async def work():
        return 1

    coroutine = work()
    charged = accounts.charged(coroutine, lambda: "")
    assert charged is coroutine
    assert asyncio.run(charged) == 1
    accounts.asked("")
    accounts.charge("", 10.0)
    assert accounts.pause_s("") == 0
    assert not accounts.shared("")
