"""The pool: who gets which connection, and how many are opened at once."""

import asyncio

import pytest

from gateway.errors import BackendUnavailable
from gateway.kestrel.counters import Counters
from gateway.kestrel.server.pool import CONNECTS_IN_FLIGHT, Pool
from gateway.kestrel.wire.codec import Codecs
from gateway.kestrel.wire.connection import Connection
from tests.kestrel.standin import StandIn
from tests.kestrel.support import client, until


def pool_of(server, size=64):
    """A pool of connections to the server, and the list of all it opened."""
    loop = asyncio.get_running_loop()
    opened = []

    async def connect():
        connection = Connection(loop, Codecs(), Counters(), lambda *_: None)
        await loop.create_connection(lambda: connection, "127.0.0.1", server.port)
        opened.append(connection)
        return connection

    return Pool(loop, size, connect), opened


async def close(pool, opened):
    await pool.close(BackendUnavailable("over"))
    for connection in opened:
        connection.close()


def test_few_connections_are_opened_at_once():
    """However many want one, a bounded number is under way, and all are served."""

    async def main():
        async with StandIn() as server:
            pool, opened = pool_of(server)
            futures = [pool.want() for _ in range(200)]
            assert pool.opening == CONNECTS_IN_FLIGHT
            async with asyncio.timeout(10):
                got = await asyncio.gather(*futures)
            assert len(set(got)) == 200
            await close(pool, opened)

    asyncio.run(main())


def test_who_gave_up_gets_none_and_the_next_does():
    """A cancelled wish is passed over, and its connection goes to the one behind it."""

    async def main():
        async with StandIn() as server:
            pool, opened = pool_of(server)
            first = pool.want()
            connection = await first
            await until(lambda: not pool.opening)
            while pool.checkout() is not None:
                pass
            pool.suspend()
            gone, stays = pool.want(), pool.want()
            gone.cancel()
            pool.release(connection)
            async with asyncio.timeout(15):
                assert await stays is connection
            await close(pool, opened)

    asyncio.run(main())


def test_a_reserve_stays_ready_beside_what_is_lent():
    """What keeps a connection (a lease, a wait) does not make the next caller wait for one."""

    async def main():
        async with StandIn() as server:
            pool, opened = pool_of(server)
            await pool.want()
            for _ in range(5):
                await until(lambda: len(pool._idle) == 2 and not pool.opening)
                assert pool.checkout() is not None
            await until(lambda: not pool.opening)
            await close(pool, opened)

    asyncio.run(main())


def test_closing_refuses_who_waits():
    """Nobody waits for a connection of a closed pool."""

    async def main():
        async with StandIn() as server:
            pool, opened = pool_of(server)
            pool.suspend()
            future = pool.want()
            await close(pool, opened)
            with pytest.raises(BackendUnavailable):
                await future

    asyncio.run(main())


def test_a_connection_granted_to_a_cancelled_caller_is_not_lost():
    """Cancelled between grant and waking, the caller hands the connection back."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            one = kestrel._servers.members[0]
            await until(lambda: len(one._pool._idle) == 3 and not one._pool.opening)
            one._pool.suspend()
            held = []
            while (connection := one.commands.checkout()) is not None:
                held.append(connection)
            task = asyncio.ensure_future(one.commands.acquire())
            await asyncio.sleep(0)
            one.commands.release(held[0])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert one.commands.checkout() is held[0]
            for connection in held:
                one.commands.release(connection)
            one._pool.resume()

    asyncio.run(main())
