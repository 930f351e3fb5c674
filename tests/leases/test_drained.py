"""The end of a worker: leases that are left then go back, and their queue has its order again."""

import asyncio

from tests.kestrel.support import client, until
from tests.leases.rig import rig
from tests.leases.test_moves import address


def test_leases_left_at_the_end_go_back_in_order(broker):
    """Six of ten jobs are leased when the registry closes: the next who come get all ten in their order."""

    async def main():
        async with rig(address(broker)) as made:
            items = [await made.put("drained", b"%d" % number) for number in range(10)]
            for _ in range(6):
                assert await made.take("drained") is not None
            made.registry.close()
            async with client(address(broker)) as kestrel:
                await until(lambda: made.kestrel.statistics().pinned == 0)
                async with asyncio.timeout(20):
                    while (await kestrel.queue_stats()).queues["drained"].items < 10:
                        await asyncio.sleep(0.002)
                reads = [await kestrel.wait("drained", 5).result() for _ in range(10)]
                assert [bytes(read.data) for read in reads] == [bytes(item) for item in items]
                for read in reads:
                    await read.confirm()

    asyncio.run(main())
