"""One connection: its states, its deadlines, and that anything but a clean answer closes it."""

import asyncio
import contextlib
from functools import partial
from itertools import pairwise

import pytest
from pymemcache.exceptions import MemcacheError

from gateway.common.states import IllegalMoveError
from gateway.kestrel.counters import Counters
from gateway.kestrel.wire.codec import Codecs, KestrelClient
from gateway.kestrel.wire.connection import MOVES, Connection, ConnectionLostError, ConnectionState
from gateway.kestrel.wire.pace import AT_ONCE, AnswerPace
from tests.kestrel.standin import Manners, StandIn, answer, hang_up, reset, silence
from tests.kestrel.support import cancel_after, until


class Closed:
    """Records which connections were reported closed, and why."""

    def __init__(self) -> None:
        self.errors = []

    def __call__(self, connection, error):
        self.errors.append(error)


@contextlib.asynccontextmanager
async def connected(server):
    loop = asyncio.get_running_loop()
    closed = Closed()
    connection = Connection(loop, Codecs(), Counters(), closed)
    await loop.create_connection(lambda: connection, "127.0.0.1", server.port)
    yield connection, closed
    connection.close()
    assert len(closed.errors) == 1


def test_every_move_of_the_table_and_no_other():
    """The table is the law: a closed connection goes nowhere, and nothing skips the idle state."""
    assert MOVES[ConnectionState.CLOSED] == frozenset()
    assert all(ConnectionState.CLOSED in moves for state, moves in MOVES.items() if state is not ConnectionState.CLOSED)

    async def main():
        for state in ConnectionState:
            for target in ConnectionState:
                connection = Connection(asyncio.get_running_loop(), Codecs(), Counters(), Closed())
                connection.state = state
                if target in MOVES[state]:
                    connection._move(target)
                else:
                    with pytest.raises(IllegalMoveError):
                        connection._move(target)

    asyncio.run(main())


def test_one_call_at_a_time():
    """A second call on a busy connection raises and does not disturb the first."""

    async def main():
        async with StandIn() as server, connected(server) as (connection, _):
            first = asyncio.ensure_future(connection.call(5, KestrelClient.take, "q", 100))
            await asyncio.sleep(0)
            with pytest.raises(IllegalMoveError):
                await connection.call(5, KestrelClient.ask_version)
            assert await first is None
            assert await connection.call(5, KestrelClient.ask_version) == "2.4.8-SNAPSHOT"

    asyncio.run(main())


@pytest.mark.parametrize(
    "act",
    [
        hang_up,
        reset,
        answer(b"STO", close=True),
        answer(b"STORED\r\nSTORED\r\n"),
        answer(b"ERROR\r\n"),
        answer(b"SERVER_ERROR no\r\n"),
        answer(b"garbage\r\n"),
    ],
)
def test_anything_but_a_clean_answer_closes(act):
    """An end, a reset, half an answer, two answers, an error: the call raises and the connection is closed."""

    async def main():
        async with StandIn() as server, connected(server) as (connection, closed):
            server.manners.once("set", act)
            with pytest.raises((ConnectionLostError, MemcacheError)):
                await connection.call(5, KestrelClient.store, "q", b"x", 0)
            assert connection.state is ConnectionState.CLOSED
            assert len(closed.errors) == 1
            with pytest.raises(ConnectionLostError, match="is closed"):
                await connection.call(5, KestrelClient.ask_version)

    asyncio.run(main())


def test_the_answer_of_a_cancelled_call_is_never_the_next_ones():
    """A cancelled call closes its connection, at every step where it can be cancelled."""

    async def main():
        async with StandIn(Manners(chop=True)) as server:
            for steps in range(12):
                async with connected(server) as (connection, closed):
                    if await cancel_after(steps, connection.call(5, KestrelClient.store, "q", b"x", 0)) and steps:
                        assert connection.state is ConnectionState.CLOSED
                        assert len(closed.errors) == 1

    asyncio.run(main())


def test_a_silent_server_meets_the_deadline():
    """No answer in time closes the connection and says that it was the time."""

    async def main():
        async with StandIn() as server, connected(server) as (connection, _):
            server.manners.once("version", silence)
            with pytest.raises(ConnectionLostError) as raised:
                await connection.call(0.03, KestrelClient.ask_version)
            assert raised.value.timed_out
            assert connection.state is ConnectionState.CLOSED

    asyncio.run(main())


def test_the_deadline_of_a_finished_call_is_over():
    """An answer in time ends the deadline: the idle connection lives on."""

    async def main():
        async with StandIn() as server, connected(server) as (connection, _):
            await connection.call(0.03, KestrelClient.ask_version)
            await asyncio.sleep(0.06)
            assert connection.state is ConnectionState.IDLE

    asyncio.run(main())


def test_half_an_answer_meets_the_deadline():
    """Bytes that come do not put the deadline off."""

    async def main():
        async with StandIn() as server, connected(server) as (connection, _):
            server.manners.once("get", answer(b"VALUE q 0 10\r\nabc"))
            with pytest.raises(ConnectionLostError) as raised:
                await connection.call(0.03, KestrelClient.take, "q", 0)
            assert raised.value.timed_out

    asyncio.run(main())


def test_bytes_nobody_asked_for_close_an_idle_connection():
    """An idle connection that is spoken to is closed: the bytes would answer the next call."""

    async def main():
        async with StandIn() as server, connected(server) as (connection, closed):
            await until(lambda: server.sessions)
            server.sessions[0].send(b"SERVER_ERROR too many connections\r\n")
            await until(lambda: connection.state is ConnectionState.CLOSED)
            assert closed.errors

    asyncio.run(main())


@pytest.mark.parametrize("rst", [False, True])
def test_the_end_is_noticed_at_once(rst):
    """EOF or a reset closes an idle, a blocked and a pinned connection within milliseconds."""

    async def main():
        async with StandIn() as server:
            for how in ("idle", "blocked", "pinned"):
                async with connected(server) as (connection, closed):
                    lost = []
                    blocked = None
                    if how == "pinned":
                        connection.pin(lambda lost=lost: lost.append(True))
                    if how == "blocked":
                        blocked = asyncio.ensure_future(connection.call(30, KestrelClient.take, "q", 20000))
                        await until(lambda: any(s.waiting for s in server.sessions))
                    await until(lambda: server.sessions)
                    (reset if rst else hang_up)(server.sessions[-1])
                    await until(lambda c=connection: c.state is ConnectionState.CLOSED)
                    assert len(closed.errors) == 1
                    assert lost == [True] * (how == "pinned")
                    if blocked is not None:
                        with pytest.raises(ConnectionLostError):
                            await blocked

    asyncio.run(main())


@pytest.mark.parametrize("chop", [False, True])
def test_large_items_go_both_ways_unchanged(chop):
    """Items larger than any buffer, and small ones byte by byte, come back as they were."""

    async def main():
        async with StandIn(Manners(chop=chop)) as server, connected(server) as (connection, _):
            for size in (0, 1, 300) if chop else (0, 65536, 5 << 20):
                data = bytes(range(256)) * (size // 256 + 1)
                data = data[:size]
                assert await connection.call(20, KestrelClient.store, "q", data, 0) is True
                assert await connection.call(20, KestrelClient.take, "q", 0) == data
                assert await connection.call(20, KestrelClient.confirm, "q") is None

    asyncio.run(main())


def test_what_never_left_is_known_not_to_have_happened():
    """A set whose end is still in our buffer when the time is over was surely not executed."""

    async def main():
        async with StandIn() as server, connected(server) as (connection, _):
            await until(lambda: server.sessions)
            server.sessions[0].transport.pause_reading()
            put = asyncio.ensure_future(connection.call(0.2, KestrelClient.store, "q", b"x" * (32 << 20), 0))
            await asyncio.sleep(0.05)
            assert connection._paused, "the writer waits for the transport"
            with pytest.raises(ConnectionLostError) as raised:
                await put
            assert raised.value.unsent
            await asyncio.sleep(0)
            assert "q" not in server.queues

    asyncio.run(main())


def test_what_was_sent_is_not_called_unsent():
    """A set that the server has received and not answered may have happened."""

    async def main():
        async with StandIn() as server, connected(server) as (connection, _):
            server.manners.once("set", silence)
            with pytest.raises(ConnectionLostError) as raised:
                await connection.call(0.05, KestrelClient.store, "q", b"x", 0)
            assert not raised.value.unsent

    asyncio.run(main())


def test_a_failed_greenlet_is_not_used_again():
    """The greenlet of a call that failed does not come back to those lent for the next calls."""

    async def main():
        async with StandIn() as server:
            codecs = Codecs()
            loop = asyncio.get_running_loop()
            connection = Connection(loop, codecs, Counters(), Closed())
            await loop.create_connection(lambda: connection, "127.0.0.1", server.port)
            await connection.call(5, KestrelClient.ask_version)
            assert len(codecs._ready) == 1
            server.manners.once("version", hang_up)
            with pytest.raises(ConnectionLostError):
                await connection.call(5, KestrelClient.ask_version)
            assert len(codecs._ready) == 0

    asyncio.run(main())


def test_one_turn_of_the_loop_reads_a_limited_number_of_answers():
    """A thousand that arrive at the same instant are read in order, AT_ONCE in each turn."""

    async def main():
        pace, read = AnswerPace(), []
        for number in range(1000):
            pace.add(partial(read.append, number))
        turns = [len(read)]
        while len(read) < 1000:
            await asyncio.sleep(0)
            turns.append(len(read))
            if len(turns) == 3:
                pace.add(partial(read.append, 1000))  # behind those that wait
        await asyncio.sleep(0)
        assert read == list(range(1001))
        assert max(after - before for before, after in pairwise([0, *turns])) == AT_ONCE

    asyncio.run(main())


@pytest.mark.parametrize("end", ["close", "time out"])
def test_an_answer_that_waits_to_be_read_counts(end):
    """The end of the connection, or of the call's time, does not overtake it."""

    async def main():
        async with StandIn() as server, connected(server) as (connection, _):
            for _ in range(AT_ONCE):
                connection._codecs.pace.add(lambda: None)  # this turn reads nothing more
            answers = []
            connection.start(lambda *answer: answers.append(answer), 5, KestrelClient.ask_version)
            connection.data_received(b"VERSION 2.4.8\r\n")
            assert answers == []
            if end == "close":
                connection.eof_received()
            else:
                connection._time_out()
            assert [error for _, error in answers] == [None]

    asyncio.run(main())
