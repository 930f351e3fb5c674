"""One server: reached, lost, frozen, back again; and what it says it can do."""

import asyncio
import logging
import socket
import time

import pytest

from gateway.errors import BackendRefused, BackendUnavailable
from gateway.kestrel.address import Address
from gateway.kestrel.health import Health
from gateway.kestrel.wire.failures import not_asked
from gateway.settings import Settings, SettingsError
from tests.kestrel.standin import Manners, StandIn, answer, darner, hang_up, siberite
from tests.kestrel.support import client, until
from tests.lab.ports import free_port
from tests.lab.shortage import no_free_descriptors
from tests.lab.waiting import undisturbed


def test_a_server_that_starts_late_is_found():
    """The client starts without it, keeps trying, and finds it within the longest pause."""

    async def main():
        server = StandIn()
        async with server:
            pass
        async with client(server.address, ready=False) as kestrel:
            await until(lambda: kestrel.backends()[0].state is Health.DOWN)
            await asyncio.sleep(0.3)
            async with server:
                await until(lambda: kestrel.available)
                await kestrel.put("q", b"x")
                assert kestrel.backends()[0].last_error == ""

    asyncio.run(main())


@undisturbed(0.5)
def test_a_started_client_has_tried_its_servers():
    """It can be used at once; a server that is silent delays the start by a limited time."""

    async def main():
        async with (
            StandIn() as one,
            StandIn() as other,
            client(one.address, other.address, ready=False) as kestrel,
        ):
            assert [each.state for each in kestrel.backends()] == [Health.UP, Health.UP]
        silent = socket.create_server(("127.0.0.1", 0))
        with silent:
            began_s = time.monotonic()
            async with client(f"127.0.0.1:{silent.getsockname()[1]}", ready=False) as kestrel:
                assert not kestrel.available
                assert time.monotonic() - began_s < 4

    asyncio.run(main())


def test_a_shortage_of_descriptors_is_not_reported_as_a_silent_server():
    """The error names the gateway; a refused connection is the server's."""
    server = Address("127.0.0.1", 1)
    with no_free_descriptors(), pytest.raises(OSError, match="Too many") as shortage:
        socket.socket()
    with pytest.raises(ConnectionRefusedError) as refused:
        socket.create_connection((server.host, server.port))
    assert not_asked(shortage.value, server).detail == (
        "the gateway cannot connect to server <127.0.0.1:1>: Too many open files"
    )
    silent = not_asked(refused.value, server)
    assert silent.detail_for(operator=True) == "127.0.0.1:1 does not answer: Connection refused"
    assert silent.detail_for(operator=False) == "a Kestrel server does not answer: Connection refused"


def test_no_reason_contains_an_address():
    """The loop's own errors have it in their text, which tenants read."""
    server = Address("127.0.0.1", free_port())

    async def main():
        with pytest.raises(OSError, match=str(server.port)) as refused:
            await asyncio.get_running_loop().create_connection(asyncio.Protocol, server.host, server.port)
        assert not_asked(refused.value, server).detail_for(operator=False) == (
            "a Kestrel server does not answer: Connection refused"
        )
        several = OSError(f"Multiple exceptions: {refused.value}, {refused.value}")  # as asyncio words it
        assert not_asked(several, server).detail.endswith("does not answer: Connection refused")
        with pytest.raises(OSError, match="known") as unknown:
            await asyncio.get_running_loop().create_connection(asyncio.Protocol, "nowhere.invalid", 1)
        assert "nowhere" not in not_asked(unknown.value, Address("nowhere.invalid", 1)).detail_for(operator=False)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("word", "said"), [("version", b"VERSION 2.4.8\r\n"), ("confirm", b"ERROR\r\n"), ("status", b"UP\r\n")]
)
def test_a_server_that_closes_behind_an_answer_is_tried_again(monkeypatch, word, said):
    """At each of the first questions: the end of the connection arrives before its turn to read the answer."""

    def later(_pace, read):
        asyncio.get_running_loop().call_later(0.02, read)

    monkeypatch.setattr("gateway.kestrel.wire.pace.AnswerPace.add", later)

    async def main():
        async with StandIn() as server:
            server.manners.once(word, answer(said, close=True))
            async with client(server.address, ready=False) as kestrel:
                await until(lambda: kestrel.available)
                await kestrel.put("q", b"x")
                assert list(server.queues["q"]) == [b"x"]

    asyncio.run(main())


def test_a_caller_speeds_up_the_next_attempt(monkeypatch):
    """While the pauses are long, a put makes the keeper try again at once."""
    monkeypatch.setattr("gateway.kestrel.backoff.FIRST_PAUSE_S", 600.0)
    monkeypatch.setattr("gateway.kestrel.backoff.LONGEST_PAUSE_S", 600.0)

    async def main():
        server = StandIn()
        async with server:
            pass
        async with client(server.address, ready=False) as kestrel:
            async with server, asyncio.timeout(10):
                while True:
                    try:
                        await kestrel.put("q", b"x")
                        break
                    except BackendUnavailable:
                        await asyncio.sleep(0.005)

    asyncio.run(main())


def test_a_restart_is_survived_many_times():
    """Ten restarts: every put in between either is stored or raises, and the client comes back each time."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for i in range(10):
                await kestrel.put("q", b"%d" % i)
                await server.stop()
                await until(lambda: not kestrel.available)
                with pytest.raises(BackendUnavailable):
                    await kestrel.put("q", b"lost")
                await server.open()
                await until(lambda: kestrel.available)
            assert list(server.queues["q"]) == [b"%d" % i for i in range(10)]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("manners", "software", "missing"),
    [
        (Manners(), "kestrel", ()),
        (Manners(version="2.4.8"), "kestrel", ()),
        (Manners(version="2.2.0", confirm=False), "kestrel", ("confirm",)),
        (darner(), "darner", ("confirm", "dump_stats", "status", "expiry", "fanout", "empty_items")),
        (siberite(), "siberite", ("confirm", "waits", "dump_stats", "status", "expiry", "fanout", "empty_items")),
        (Manners(version="mine", confirm=False), "unknown", ("confirm",)),
        (Manners(version="mine"), "unknown", ()),
        (Manners(version="2.1.0", status=""), "kestrel", ("status",)),
    ],
)
def test_what_a_server_can_do_is_learnt_before_it_is_relied_on(manners, software, missing):
    """By version and, for `confirm` and `status`, by an answer that changes nothing and creates no queue."""

    async def main():
        async with StandIn(manners) as server, client(server.address) as kestrel:
            backend = kestrel.backends()[0]
            assert backend.version == manners.version
            assert (backend.capabilities.software, backend.capabilities.missing) == (software, missing)
            assert not server.queues
            server.append("q", b"x")
            await (await kestrel.wait("q", 1).result()).confirm()
            assert server.confirmed == [("q", b"x")]
            assert (await kestrel.queue_stats()).queues["q"].items == 0

    asyncio.run(main())


def test_a_server_without_dump_stats_is_asked_for_stats():
    """Where `dump_stats` is an error although the version promised it, `stats` answers."""

    async def main():
        async with StandIn(Manners(dump_stats=False)) as server, client(server.address) as kestrel:
            server.append("a_total", b"x")
            server.append("b", b"x")
            queues = (await kestrel.queue_stats()).queues
            assert {key: stats.items for key, stats in queues.items()} == {"a_total": 1, "b": 1}

    asyncio.run(main())


@undisturbed(0.05)
def test_a_frozen_server_is_down_and_nothing_more_is_sent():
    """After one unanswered command the server counts as down: the next put fails at once and was not sent."""

    async def main():
        async with (
            StandIn() as server,
            client(server.address, kestrel_command_timeout_s=0.1, kestrel_connect_timeout_s=0.1) as kestrel,
        ):
            server.manners.frozen = True
            with pytest.raises(BackendUnavailable):
                await kestrel.peek("q")
            for _ in range(5):
                with pytest.raises(BackendUnavailable):
                    await kestrel.put("q", b"x")
            server.thaw()
            await until(lambda: kestrel.available)
            await kestrel.put("q", b"y")
            assert list(server.queues["q"]) == [b"y"]

    asyncio.run(main())


@undisturbed(0.1)
def test_idle_connections_are_kept_alive_below_the_limit():
    """A server that drops connections quiet for 0.3 s drops none of ours."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_idle_timeout_s=0.6) as kestrel:
            sessions = list(server.sessions)
            asked = [session.asked for session in sessions]
            began_s = time.monotonic()
            await until(lambda: all(each.asked >= before + 4 for each, before in zip(sessions, asked, strict=True)), 10)
            assert time.monotonic() - began_s < 4 * 0.6, "it is quiet for longer than the limit on the average"
            assert kestrel.statistics().pings >= 6
            assert set(sessions) <= set(server.sessions)
            assert kestrel.available

    asyncio.run(main())


def test_the_pool_keeps_a_bounded_number():
    """After many leases the surplus connections are closed."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_pool_size=4) as kestrel:
            for i in range(40):
                server.append("q", b"%d" % i)
            reads = [await kestrel.wait("q", 1).result() for _ in range(40)]
            assert kestrel.statistics().pinned == 40
            for read in reads:
                await read.confirm()
            await until(lambda: len(server.sessions) <= 4 + 2)
            assert kestrel.statistics().connections <= 4 + 2

    asyncio.run(main())


def test_a_greeting_that_refuses_is_no_server():
    """A server over its connection limit speaks first and closes: it does not count as up."""

    async def main():
        async with StandIn() as server:
            for _ in range(50):
                server.manners.once("version", hang_up)
            async with client(server.address, ready=False) as kestrel:
                await until(lambda: kestrel.backends()[0].state is Health.DOWN)
                server.manners.script.clear()
                await until(lambda: kestrel.available)

    asyncio.run(main())


def test_several_servers_are_added_up():
    """Statistics are added, a peek finds the item wherever it is, flush and delete reach all."""

    async def main():
        async with StandIn() as one, StandIn() as two, client(one.address, two.address) as kestrel:
            one.append("q", b"x")
            two.append("q", b"y")
            two.append("only", b"z")
            queues = (await kestrel.queue_stats()).queues
            assert {key: stats.items for key, stats in queues.items()} == {"q": 2, "only": 1}
            assert (await kestrel.peek("only")).result == b"z"
            await kestrel.flush("q")
            assert (await kestrel.queue_stats()).queues["only"].items == 1
            await kestrel.delete("only")
            assert "only" not in two.queues

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:22133", "127.0.0.1:22133"),
        ("kestrel.example:1", "kestrel.example:1"),
        ("[::1]:22133", "[::1]:22133"),
        ("unix:/run/kestrel.sock", "unix:/run/kestrel.sock"),
    ],
)
def test_addresses_are_read_and_shown(text, shown):
    """Host and port, IPv6 in brackets, a socket's path."""

    async def main():
        async with client(text, ready=False) as kestrel:
            assert kestrel.backends()[0].address == shown

    asyncio.run(main())


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x", "::1:1", "unix:", "a b:1", "h:²"]
)
def test_bad_addresses_are_told(text):
    """A bad address names itself and what is allowed."""
    from gateway.kestrel.client import Kestrel

    with pytest.raises(SettingsError, match="kestrel: "):
        Kestrel([text], Settings())


def test_each_change_is_one_line_of_the_log(caplog):
    """Lost and back again: a warning and an info with the address, once each, however often it is tried in between."""
    caplog.set_level(logging.INFO, "gateway.kestrel")

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            await server.stop()
            await until(lambda: not kestrel.available)
            for _ in range(5):
                with pytest.raises(BackendUnavailable):
                    await kestrel.put("q", b"x")
                await asyncio.sleep(0.11)
            await server.open()
            await until(lambda: kestrel.available)
            return server.address

    address = asyncio.run(main())
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["INFO", "WARNING", "INFO"]
    assert told[1][1].startswith(f"Kestrel at {address} is down: ")
    assert told[2][1] == f"Kestrel at {address} is up (2.4.8-SNAPSHOT)"


def test_a_server_that_closes_its_last_connection_is_lost_and_tried_again(caplog):
    """It still listens, so nothing but the end of the connections shows that it has restarted."""
    caplog.set_level(logging.INFO, "gateway.kestrel")

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            await until(lambda: kestrel.backends()[0].connections.get("idle") == len(server.sessions) == 3)
            for session in list(server.sessions):
                session.transport.abort()
            await until(lambda: len(caplog.records) == 3)
            assert kestrel.available

    asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    assert " is down: " in caplog.records[1].getMessage()


def test_refusals_do_not_make_a_server_look_lost(caplog):
    """One that says SERVER_ERROR and closes, on every connection at once, is there; when it then goes it is not."""
    caplog.set_level(logging.INFO, "gateway.kestrel")

    async def main():
        manners = Manners()
        async with StandIn(manners) as server, client(server.address) as kestrel:
            for _ in range(20):
                for _ in range(10):
                    manners.once("flush", answer(b"SERVER_ERROR cannot write: full\r\n", close=True))
                outcomes = await asyncio.gather(*(kestrel.flush("q") for _ in range(10)), return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} == {BackendRefused}
                assert kestrel.available
            assert not any("is lost" in record.getMessage() for record in caplog.records)
            await server.stop()
            await until(lambda: not kestrel.available)

    asyncio.run(main())


def test_what_we_close_ourselves_says_nothing_of_the_server(caplog):
    """A job is given back on the only connection that is left: the server stays up, and is not said to be lost."""
    caplog.set_level(logging.INFO, "gateway.kestrel")

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for _ in range(3):
                server.append("q", b"x")
                read = await kestrel.wait("q", 1).result()
                await until(lambda: kestrel.backends()[0].connections["connecting"] == 0)
                for session in [session for session in server.sessions if not session.held]:
                    session.close()
                await until(lambda: open_connections(kestrel) == {"pinned": 1})
                read.give_back()
                assert kestrel.available
                await until(lambda: server.queues["q"] and not server.sessions)
                assert open_connections(kestrel) == {}
                assert kestrel.available
                await (await kestrel.wait("q", 1).result()).confirm()

    asyncio.run(main())
    assert "is lost" not in caplog.text


def open_connections(kestrel):
    """How many there are of each kind that there is."""
    return {state: count for state, count in kestrel.backends()[0].connections.items() if count}


@pytest.mark.parametrize(
    ("said", "stands"), [("WRITEAVOID", Health.READONLY), ("DOWN", Health.QUIESCENT), ("READONLY", Health.READONLY)]
)
def test_every_status_that_kestrel_knows_is_understood(said, stands):
    """From the start, and when it comes later; a change that the server does not make is an error."""

    async def main():
        async with (
            StandIn(Manners(status=said)) as server,
            StandIn() as other,
            client(server.address, other.address, ready=False) as kestrel,
        ):
            await until(lambda: [each.state for each in kestrel.backends()] == [stands, Health.UP])
            assert "status" not in kestrel.backends()[0].capabilities.missing
            for number in range(10):
                await kestrel.put("q", b"%d" % number)
            assert len(other.queues["q"]) == 10
            assert (await kestrel.set_status(server.address, Health.UP)).state is Health.UP
            server.manners.once("status", answer(b"END\r\n"))
            with pytest.raises(BackendRefused, match="stays up"):
                await kestrel.set_status(server.address, Health.QUIESCENT)
            assert kestrel.backends()[0].state is Health.UP
            server.manners.status = said
            asked = len(server.log)
            await until(lambda: kestrel.backends()[0].state is stands, 10)
            assert len(server.log) - asked < 10, "nor is it asked over and over"

    asyncio.run(main())
