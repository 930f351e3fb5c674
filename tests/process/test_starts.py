"""Where several tenants send requests, a few are read in a turn of the loop; the others wait, and none is lost."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from gateway.http import starts
from tests.process.serving import Server, problem, serving
from tests.process.test_requests import BAD, GOOD

ECHO = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
SEEN = b"GET /seen HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def crowded(monkeypatch):
    """Runs a test against a server whose requests all wait for a turn."""
    monkeypatch.setattr(starts, "AT_ONCE", 0)

    def run(test: Callable[[Server], Awaitable[None]], **settings: object) -> None:
        async def among_others(server: Server) -> None:
            server.app.loop_time.tenanted = True
            server.app.loop_time.asked("another tenant")
            await test(server)

        serving(among_others, **settings)

    return run


@pytest.mark.parametrize("name", GOOD)
def test_a_request_that_waits_is_read_whole(crowded, name):
    """In every form."""
    request, body = GOOD[name]

    async def test(server: Server) -> None:
        answer = await server.exchange(request)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n" + body)

    crowded(test)


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_request_that_waits_is_refused(crowded, name):
    """With a problem document."""

    async def test(server: Server) -> None:
        assert problem(await server.exchange(BAD[name]))["code"] == "bad-framing"

    crowded(test)


def test_in_pieces_and_one_after_the_other(crowded):
    """The second piece comes while the first waits, or after it was read; the next request waits again."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            for pause in (False, True, False):
                client.send(ECHO[:30])
                if pause:
                    await asyncio.sleep(0.01)
                client.send(ECHO[30:])
                assert (await client.response())[2] == b"x"

    crowded(test)


def test_a_client_that_closes_its_sending_side(crowded, monkeypatch):
    """It gets the answer to the request that waits."""

    async def test(server: Server) -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(server.server.server_state.starts, "later", lambda _, read: loop.call_later(0.05, read))
        async with server.client() as client:
            client.send(ECHO)
            client.writer.write_eof()
            assert (await client.rest()).endswith(b"\r\n\r\nx")

    crowded(test)


def test_a_client_that_leaves(crowded):
    """Its connection ends; nothing remains of its request."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(ECHO)
            assert (await client.response())[0] == 200
            client.send(ECHO)
            await client.reset()
        async with asyncio.timeout(20):
            while server.server.server_state.connections:
                await asyncio.sleep(0.001)
        assert not server.server.server_state.tasks

    crowded(test)


def test_it_is_not_idle_while_it_waits(crowded):
    """At the limit of connections it is not closed for a new one."""

    async def test(server: Server) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(server.client()) for _ in range(2)]
            for client in clients:
                client.send(SEEN)
            for client in clients:
                assert (await client.response())[0] == 200

    crowded(test, max_connections=2)


def test_a_few_in_a_turn(monkeypatch):
    """The others in later turns, and without other tenants all at once."""
    requests = 3 * starts.AT_ONCE
    monkeypatch.setattr(starts, "SLICE_S", 0.0)

    async def turns(*, shared: bool) -> list[int]:
        state = starts.RequestStarts(loop_time := starts.LoopTime())
        if shared:
            loop_time.asked("another")
        read: list[int] = []
        by_turn = []
        for number in range(requests):
            if state.may_read("many"):
                read.append(number)
            else:
                state.later("many", partial(read.append, number))
        while len(read) < requests:
            by_turn.append(len(read))
            await asyncio.sleep(0)
        assert read == list(range(requests))
        return [*by_turn, len(read)]

    assert asyncio.run(turns(shared=True)) == [starts.AT_ONCE + number for number in range(2 * starts.AT_ONCE + 1)]
    assert asyncio.run(turns(shared=False)) == [requests]


def test_a_tenant_that_pauses():
    """Its next requests wait until it may continue; those of others and of new connections do not."""

    async def test() -> None:
        loop_time = starts.LoopTime()
        state = starts.RequestStarts(loop_time)
        loop_time.asked("quiet")
        loop_time.charge("many", 0.02)
        read: list[str] = []
        for tenant in ("many", "quiet", ""):
            if state.may_read(tenant):
                read.append(tenant)
            else:
                state.later(tenant, partial(read.append, tenant))
        assert read == ["quiet", ""]
        pause_s = loop_time.pause_s("many")
        assert pause_s > 0
        began_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(20):
            while len(read) < 3:
                await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() - began_s > pause_s / 2

    asyncio.run(test())
