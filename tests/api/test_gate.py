"""Requests begin in turns: a flood of one tenant delays another one's requests by a few, and loses none."""

import asyncio

from gateway.api.access.gate import ALONE, TOGETHER, Gate


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_flood_delays_others_by_a_turn():
    """A thousand requests wait; each of another tenant begins within two turns of the loop."""

    async def main():
        gate, begun = Gate(), []

        async def request(tenant):
            await gate.enter(tenant)
            begun.append(tenant)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(request("few"))
            await turns(2)
            for _ in range(1000):
                tasks.create_task(request("many"))
            await turns(5)
            for number in range(1, 50):
                before = len(begun)
                tasks.create_task(request("few"))
                await turns(3)
                assert begun.count("few") == number + 1
                assert len(begun) - before <= 4 * TOGETHER
        assert begun.count("many") == 1000

    asyncio.run(main())


def test_a_tenant_that_is_alone_waits_for_nobody():
    """Requests up to ALONE begin in the turn in which they come; of more, as many in each further turn."""

    async def main():
        gate, begun = Gate(), 0

        async def request():
            nonlocal begun
            await gate.enter("")
            begun += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3 * ALONE):
                tasks.create_task(request())
            await turns(2)
            assert begun == ALONE
            await turns(4)
            assert begun == 3 * ALONE

    asyncio.run(main())


def test_a_request_that_goes_away_takes_no_turn():
    """Cancelled while it waits, it leaves its turn to the next."""

    async def main():
        gate, begun = Gate(), []

        async def request(tenant):
            await gate.enter(tenant)
            begun.append(tenant)

        tasks = [asyncio.create_task(request(f"t{i % 2}")) for i in range(100)]
        await turns(2)
        for task in tasks[10:90]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(begun) == 20
        await gate.enter("t0")

    asyncio.run(main())


def test_requests_of_a_tenant_that_pauses_begin_later():
    """The other tenant's requests begin during the pause; those of the paused tenant begin after it."""

    async def main():
        gate = Gate()
        gate.time.asked("few")
        gate.time.asked("many")
        gate.time.charge("many", 0.05)
        begun = []

        async def request(tenant):
            await gate.enter(tenant)
            begun.append(tenant)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(request("many"))
            for number in range(10):
                tasks.create_task(request("few"))
                await turns(3)
                assert begun == ["few"] * (number + 1)
        assert begun.count("many") == 3

    asyncio.run(main())
