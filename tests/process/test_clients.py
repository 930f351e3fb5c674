"""Clients that vanish, stall, crowd or stay: the server notices each and holds what it promised."""

import asyncio
import contextlib
import gc
import time
from typing import Any

import orjson
import pytest

from gateway.http.connection import DISCARDING, IDLE, LINGERING, MOVES, PENDING, Reading
from gateway.http.read_buffer import DISCARD_BYTES, HELD_BYTES
from gateway.request import EXTENSION
from tests.process.serving import Server, problem, serving
from tests.process.tiny_app import answer as respond

PARK = b"GET /park HTTP/1.1\r\nHost: a\r\n\r\n"
PARK_PLAIN = b"GET /park_plain HTTP/1.1\r\nHost: a\r\n\r\n"
ECHO = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
LONG_ECHO = ECHO[:-2] + b"X: " + b"x" * 500 + b"\r\n\r\n"
"""Fills what is held with a hundred requests, not with thousands."""
LARGE_BYTES = 16 << 20
"""More than the kernel keeps for both ends of a connection: 10 MiB. Source: tcp(7), tcp_wmem and tcp_rmem."""
POST_ECHO = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: "


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("behind", [b"", ECHO, PARK[:20], b"\x00nonsense", ECHO * 800])
def test_vanished_client_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch, how: str, behind: bytes) -> None:
    """20 times, whatever is pipelined behind the parked request: seen without a watch, no answer counts as sent."""
    monkeypatch.setattr("gateway.http.flow.WATCH_S", 600.0)

    async def test(server: Server) -> None:
        for turn in range(1, 21):
            async with server.client() as client:
                client.send(PARK + behind)
                await client.writer.drain()
                await server.counted("parked", turn)
                if how == "RST":
                    await client.reset()
                else:
                    client.writer.close()
                await server.counted("unreached", turn)
        assert server.app.counts == {"parked": 20, "gone": 20, "unreached": 20}

    serving(test)


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_vanished_client_is_noticed_behind_more_than_is_held(how: str) -> None:
    """While reading is paused, the kernel's state of the connection shows it within a watch's interval."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(PARK + b"x" * (DISCARD_BYTES + 3 * HELD_BYTES))
            await server.counted("parked", 1)
            (connection,) = server.connections
            async with asyncio.timeout(20):
                while not connection.flow.read_paused:
                    await asyncio.sleep(0.001)
            if how == "RST":
                await client.reset()
            else:
                client.writer.close()
            await server.counted("unreached", 1)

    serving(test)


def test_held_bytes_are_bounded() -> None:
    """A client that sends without end behind a parked request fills the kernel's buffers, not ours."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(PARK)
            await server.counted("parked", 1)
            (connection,) = server.connections
            for _ in range(400):
                client.send(b"x" * 65536)
            async with asyncio.timeout(20):
                while not connection.flow.read_paused:
                    await asyncio.sleep(0.001)
            assert len(connection._buffer.data) < HELD_BYTES + 300_000
            await client.reset()
            await server.counted("gone", 1)

    serving(test)


def test_held_requests_are_served_when_the_parked_one_ends() -> None:
    """What was held is read afterwards and in order."""

    async def test(server: Server) -> None:
        count = HELD_BYTES // len(LONG_ECHO)
        async with server.client() as client:
            client.send(PARK + LONG_ECHO * count)
            await server.counted("parked", 1)
            server.app.begin_drain()
            async with asyncio.timeout(10):
                assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
                for _ in range(count):
                    assert (await client.response())[0] == 200
        assert server.app.counts["reached"] == 1

    serving(test)


def test_more_than_is_held_is_not_served() -> None:
    """Behind a parked request it is thrown away: that one's answer says that it is the connection's last."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(PARK + ECHO * (3 * HELD_BYTES // len(ECHO)))
            await server.counted("parked", 1)
            (connection,) = server.connections
            async with asyncio.timeout(20):
                while connection.reading is not DISCARDING:
                    await asyncio.sleep(0.001)
            server.app.begin_drain()
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 204 ")
            assert answer.count(b"HTTP/1.1 ") == 1
            assert b"connection: close" in answer
        assert server.app.counts["reached"] == 1

    serving(test)


def test_a_long_pipeline_of_quick_requests_is_served_whole() -> None:
    """What is beyond the bound behind a quick request waits in the kernel and is read in its turn."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            count = 5 * HELD_BYTES // len(LONG_ECHO)
            client.send(LONG_ECHO * count)
            async with asyncio.timeout(60):
                for _ in range(count):
                    assert (await client.response())[0] == 200

    serving(test)


def test_plain_asgi_learns_it_too() -> None:
    """An application that only knows `http.disconnect` gets it, with a request pipelined behind and without."""

    async def test(server: Server) -> None:
        for turn, behind in enumerate((b"", ECHO), 1):
            async with server.client() as client:
                client.send(PARK_PLAIN + behind)
                await server.counted("parked", turn)
            await server.counted("gone", turn)

    serving(test)


def test_response_to_an_open_client_counts_as_reached() -> None:
    """`reached` is true when the last bytes met an open connection."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(PARK)
            await server.counted("parked", 1)
            server.app.begin_drain()
            await server.counted("reached", 1)
        assert "gone" not in server.app.counts

    serving(test)


@pytest.mark.parametrize("sent", [3, 200_000])
def test_client_gone_with_an_unread_body_is_noticed(sent: int) -> None:
    """Also where the application does not read the body and the server had to pause reading it."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + b"x" * sent)
            await server.counted("parked", 1)
            await client.reset()
            await server.counted("gone", 1)

    serving(test)


def test_complete_large_body_does_not_blind_the_server() -> None:
    """After a body above the high-water mark, complete and unread, the client's end is still seen at once."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000)
            await client.writer.drain()
            await server.counted("parked", 1)
            (connection,) = server.connections
            async with asyncio.timeout(20):
                while connection.reading is not PENDING:
                    await asyncio.sleep(0.001)
            assert not connection.flow.read_paused

    serving(test)


def test_slow_header_is_answered_408() -> None:
    """A header block that drips past its time is refused, and each byte does not buy more of it."""

    async def test(server: Server) -> None:
        began = time.monotonic()
        async with server.client() as client:

            async def drip() -> None:
                for byte in PARK * 100:
                    client.send(bytes([byte]))
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            document = problem(await client.rest())
            dripping.cancel()
            assert document["code"] == "request-timeout"
            assert document["retryable"] is True
            assert 0.25 < time.monotonic() - began < 20, "the whole would take a minute"

    serving(test, header_timeout_s=0.3)


def test_silent_connection_is_closed_without_a_word() -> None:
    """A connection that never sends a byte, or only blank lines, ends after the header's time."""

    async def test(server: Server) -> None:
        assert await server.exchange(b"") == b""
        assert await server.exchange(b"\r\n") == b""

    serving(test, header_timeout_s=0.2)


def test_slow_body_is_answered_408() -> None:
    """A body that does not come, or drips, is refused when its time is over; the application learns it."""

    async def test(server: Server) -> None:
        answer = await server.exchange(POST_ECHO + b"10\r\n\r\nabc")
        assert problem(answer)["code"] == "request-timeout"
        answer = await server.exchange(b"GET /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        assert problem(answer)["status"] == 408
        await server.counted("gone", 1)

    serving(test, body_timeout_s=0.2)


def test_parked_request_has_no_deadline_of_the_server() -> None:
    """Neither the header's, the body's nor the keep-alive time ends a request that is complete."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(ECHO + PARK)
            assert (await client.response())[0] == 200
            await server.counted("parked", 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.3):
                    await client.reader.read(1)
            assert "gone" not in server.app.counts

    serving(test, header_timeout_s=0.1, body_timeout_s=0.1, keep_alive_s=1)


def test_idle_connection_is_kept_and_then_closed() -> None:
    """Between requests a connection lives for the time that its answers tell, and for a moment more."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            for pause in (0.6, 0.6, 0.0):
                client.send(ECHO)
                status, headers, _ = await client.response()
                assert (status, headers["connection"], headers["keep-alive"]) == (200, "keep-alive", "timeout=1")
                await asyncio.sleep(pause)
            began = time.monotonic()
            assert await client.rest() == b""
            assert 1.2 < time.monotonic() - began < 20

    serving(test, keep_alive_s=1, header_timeout_s=0.3)


def test_connections_have_a_bound() -> None:
    """While requests are under way on all, one more gets 503 at once; when one ends, the next is served."""

    async def test(server: Server) -> None:
        async with server.client() as first, server.client() as second:
            for client in (first, second):
                client.send(PARK)
            await server.counted("parked", 2)
            answer = await server.exchange(b"")
            assert problem(answer)["code"] == "unavailable"
            assert b"retry-after: 1\r\n" in answer
        async with asyncio.timeout(20):
            while server.connections:
                await asyncio.sleep(0.001)
        async with server.client() as client:
            client.send(ECHO)
            assert (await client.response())[0] == 200

    serving(test, max_connections=2)


def test_an_idle_connection_makes_room() -> None:
    """At the bound the one that has been idle longest is closed, silent ones and parts of heads included."""

    async def test(server: Server) -> None:
        async with contextlib.AsyncExitStack() as stack:
            parked, silent, half, *others = [await stack.enter_async_context(server.client()) for _ in range(3)]
            parked.send(PARK)
            await server.counted("parked", 1)
            half.send(ECHO[:20])
            for _ in range(5):
                others.append(await stack.enter_async_context(server.client()))
                others[-1].send(ECHO)
                assert (await others[-1].response())[0] == 200
            for client in (silent, half, *others[:-2]):
                assert await client.rest() == b""
            for client in others[-2:]:
                client.send(ECHO)
                assert (await client.response())[0] == 200
            assert not parked.reader.at_eof()

    serving(test, max_connections=3)


def test_parts_of_heads_have_a_bound() -> None:
    """Of all connections together: the one whose head began first gets 503; one with a complete head is served."""

    async def test(server: Server) -> None:
        head = b"GET /seen HTTP/1.1\r\nHost: x\r\nfiller: " + b"x" * 30_000
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(server.client()) for _ in range(4)]
            for client in clients:
                client.send(head)
                async with asyncio.timeout(20):
                    while server.app.buffers.held % len(head) or not server.app.buffers.held:
                        await asyncio.sleep(0.001)
            for client in clients[:2]:
                status, _, body = await client.response()
                assert (status, orjson.loads(body)["code"]) == (503, "too-many-bytes")
            for client in clients[2:]:
                client.send(b"\r\n\r\n")
                assert (await client.response())[0] == 200
            assert server.app.buffers.held == 0

    serving(test, max_buffer_bytes=65536, max_job_bytes=100, max_batch_bytes=100)


def test_what_is_held_behind_a_request_counts() -> None:
    """It is given back when it is read, and when the connection ends; without room reading pauses."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(PARK + ECHO * 100)
            async with asyncio.timeout(20):
                while server.app.buffers.held != 100 * len(ECHO):
                    await asyncio.sleep(0.001)
        async with asyncio.timeout(20):
            while server.app.buffers.held:
                await asyncio.sleep(0.001)

    serving(test)


def test_a_response_that_nobody_reads_is_not_delivered() -> None:
    """The application learns that a large one was not read: by the end of its connection, or of the time for it."""

    async def test(server: Server) -> None:
        reached: list[bool] = []

        async def large(scope: Any, receive: object, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": bytes(LARGE_BYTES)})
            reached.append(scope["extensions"][EXTENSION].reached)

        server.app.on_large = large
        for end in (True, False):
            async with server.client() as client:
                client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
                await client.reader.read(1)
                if end:
                    await client.reset()
                async with asyncio.timeout(10):
                    while len(reached) < (1 if end else 2):
                        await asyncio.sleep(0.01)
        async with server.client() as client:
            client.send(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert len(await client.rest()) > LARGE_BYTES
        assert reached == [False, False, True]

    serving(test, body_timeout_s=0.3)


def test_slow_reader_slows_the_application() -> None:
    """A response that the client does not read does not accumulate in memory."""

    async def test(server: Server) -> None:
        sent = 0

        async def endless(scope: Any, receive: Any, send: Any) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                sent += 65536
                await asyncio.sleep(0)

        server.app.on_endless = endless
        async with server.client() as client:
            client.pause()
            client.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            before = -1
            async with asyncio.timeout(10):
                while sent != before:
                    before = sent
                    await asyncio.sleep(0.2)
            (connection,) = server.connections
            assert connection.transport.get_write_buffer_size() < 300_000
            (task,) = server.server.server_state.tasks
            task.cancel()
            await client.reset()

    serving(test)


def test_stream_ends_when_its_slow_reader_goes() -> None:
    """An application that waits for a client to read learns at once that it will not."""

    async def test(server: Server) -> None:
        async def endless(scope: Any, receive: Any, send: Any) -> None:
            client = scope["extensions"][EXTENSION]
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while not client.gone:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                await asyncio.sleep(0)
            server.app.count("gone")

        server.app.on_endless = endless
        async with server.client() as client:
            client.pause()
            client.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            await until_paused(server)
            client.writer.write_eof()
            await server.counted("gone", 1)

    serving(test)


async def until_paused(server: Server) -> None:
    """Waits until the one connection's client has stopped reading."""
    async with asyncio.timeout(20):
        while not any(connection.flow.write_paused for connection in server.connections):
            await asyncio.sleep(0.001)


def test_stop_lets_a_pending_response_finish() -> None:
    """The server's stop closes idle connections and waits a moment for responses under way."""

    async def test(server: Server) -> None:
        async with server.client() as idle, server.client() as parked:
            idle.send(ECHO)
            assert (await idle.response())[0] == 200
            parked.send(PARK)
            await server.counted("parked", 1)
            stopping = asyncio.create_task(server.server.stop())
            assert await idle.rest() == b""
            server.app.begin_drain()
            answer = await parked.rest()
            assert answer.startswith(b"HTTP/1.1 204 ")
            assert b"connection: close" in answer
            await stopping

    serving(test)


def test_states_have_one_table() -> None:
    """Every state is in the table of moves; none moves to itself; an illegal move raises."""
    assert set(MOVES) == set(Reading)
    assert all(state not in targets for state, targets in MOVES.items())

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(ECHO)
            await client.response()
            (connection,) = server.connections
            assert connection.reading is IDLE
            connection._move(LINGERING)
            with pytest.raises(RuntimeError):
                connection._move(IDLE)

    serving(test)


def test_asking_for_a_client_closes_no_other_s_descriptor() -> None:
    """The kernel is asked through the connection's own descriptor, which the next connection may get after its end."""

    async def test(server: Server) -> None:
        async def asks(scope: Any, _receive: Any, send: Any) -> None:
            scope["extensions"][EXTENSION].on_gone(lambda: None)
            await respond(send, 200, b"asked")

        server.app.on_endless = asks
        gc.freeze()  # what is there already is none of this test's: a collection takes less time
        for _ in range(5):
            async with server.client() as client, server.client() as other:
                client.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await client.response())[0] == 200
                client.writer.close()
                while len(server.connections) > 1:
                    await asyncio.sleep(0.001)
                async with server.client() as later:
                    gc.collect()
                    for each in (other, later):
                        each.send(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
                        assert (await each.response())[0] == 200

    try:
        serving(test)
    finally:
        gc.unfreeze()
