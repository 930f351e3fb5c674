"""What clients may ask of the broker: numbers, `noreply`, other protocols, memory, connections. Real sockets."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import ssl
import time
from pathlib import Path

import pytest

from gateway.broker.memory import BufferLimit
from tests.lab.broker import BrokerProcess
from tests.lab.examples import examples
from tests.lab.memcache import MemcacheClient
from tests.lab.waiting import until

MEBIBYTE = 1 << 20

BAD_NUMBERS = [
    b"set %s 0 999999999999999999 1\r\nx\r\n",
    b"set %s 0 -999999999999999999 1\r\nx\r\n",
    b"set %s 0 2147483648 1\r\nx\r\n",
    b"set %s 0 0 2147483648\r\n",
    b"set %s 0 0 999999999999999999\r\n",
    b"set %s 0 0 -2\r\n",
    b"get %s/t=2147483648\r\n",
    b"get %s/t=999999999999999999/open\r\n",
    b"get %s/t=-2147483649\r\n",
    b"monitor %s 2147483648\r\n",
    b"monitor %s 1 999999999999999999\r\n",
    b"monitor %s -999999999999999999\r\n",
    b"confirm %s 2147483648\r\n",
    b"confirm %s -999999999999999999\r\n",
]


@pytest.mark.parametrize("command", BAD_NUMBERS)
def test_a_number_out_of_range_is_refused_alone(broker: BrokerProcess, name: str, command: bytes) -> None:
    """The client that sends it gets an error and is closed; sets in the same commit are stored, and it stays UP."""
    innocent, wrong = broker.client(), broker.client()
    for number in range(5):
        innocent.send(b"set %s 0 0 1\r\n%d\r\n" % (name.encode(), number))
        with contextlib.suppress(OSError):
            wrong.send(command % name.encode())
    assert [innocent.line() for _ in range(5)] == [b"STORED\r\n"] * 5
    said = wrong.read_all()
    assert said.startswith(b"CLIENT_ERROR ")
    assert b"is not a whole number from" in said
    assert innocent.ask(b"status\r\n") == b"UP\r\n"
    assert [innocent.get(name) for _ in range(6)] == [b"0", b"1", b"2", b"3", b"4", None]


@pytest.mark.parametrize(
    ("command", "answers"),
    [
        (b"set %s 4294967295 0 1\r\nx\r\n", [b"STORED\r\n"]),
        (b"set %s 4294967296 0 1\r\nx\r\nversion\r\n", [b"CLIENT_ERROR\r\n", b"VERSION 2.4.8\r\n"]),
        (b"set %s 0 2147483647 1\r\nx\r\n", [b"STORED\r\n"]),
        (b"set %s 0 -2147483648 1\r\nx\r\n", [b"STORED\r\n"]),
        (b"get %s/t=-2147483648\r\n", [b"END\r\n"]),
        (b"monitor %s -2147483648\r\n", [b"END\r\n"]),
        (b"confirm %s -2147483648\r\n", [b"ERROR\r\n"]),
        (b"confirm %s 2147483647\r\n", [b"ERROR\r\n"]),
    ],
)
def test_numbers_at_the_edge_are_taken(client: MemcacheClient, name: str, command: bytes, answers: list[bytes]) -> None:
    """The last numbers that Kestrel takes are taken; a flag beyond is CLIENT_ERROR, and the connection goes on."""
    client.send(command % name.encode())
    assert [client.line() for _ in answers] == answers


def test_the_longest_waits_are_taken(client: MemcacheClient, name: str) -> None:
    """A get and a monitor may wait for the largest number there is; an item ends both waits."""
    for command in (b"get %s/t=2147483647\r\n", b"monitor %s 2147483647 1\r\n"):
        client.send(command % name.encode())
        other = MemcacheClient("{}:{}".format(*client.socket.getpeername()))
        assert other.put(name, b"x") == b"STORED\r\n"
        assert client.value() == b"x"
        other.close()


def test_noreply_is_not_answered(client: MemcacheClient, other: MemcacheClient, name: str) -> None:
    """`set`, `delete` and `flush_all` with `noreply` are done and not answered: later answers do not shift."""
    queue = name.encode()
    client.send(b"set %s 0 0 1 noreply\r\na\r\nset %s 0 0 1\r\nb\r\n" % (queue, queue))
    assert client.line() == b"STORED\r\n"
    assert [client.get(name), client.get(name), client.get(name)] == [b"a", b"b", None]
    client.send(b"set %s 0 0 1 noreply\r\na\r\ndelete %s noreply\r\nversion\r\n" % (queue, queue))
    assert client.line() == b"VERSION 2.4.8\r\n"
    assert f"queue_{name}_items" not in other.stats()
    client.send(b"delete %s 0 noreply\r\nset %s x 0 1 noreply\r\na\r\nversion\r\n" % (queue, queue))
    assert client.line() == b"VERSION 2.4.8\r\n"


@pytest.mark.parametrize("wrong", [b"set a.b 0 0 7 noreply", b"set q~ 0 0 7 noreply", b"set q 0 never 7 noreply"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_noreply_set_that_cannot_be_stored_costs_no_other(
    client: MemcacheClient, name: str, wrong: bytes, *, at_once: bool
) -> None:
    """Its item is skipped whole, whatever is in it, and the sets behind it are stored."""
    queue = name.encode()
    pieces = [wrong + b"\r\nqui", b"t\r\nx\r\n", b"set %s 0 0 1 noreply\r\nb\r\nversion\r\n" % queue]
    for piece in [b"".join(pieces)] if at_once else pieces:
        client.send(piece)
        time.sleep(0 if at_once else 0.02)
    assert client.line().startswith(b"VERSION ")
    assert client.get(name) == b"b"


def test_noreply_of_flush_all_and_of_refused_items(tmp_path: Path) -> None:
    """Nothing is said where an item is not taken either: the queue is full, or the item too large."""
    config = "[queues.small]\nmax_items = 1\n"
    with BrokerProcess(tmp_path / "data", "--fsync", "off", "--max-item-bytes", "10", config=config) as broker:
        client = broker.client()
        client.send(b"set small 0 0 1 noreply\r\na\r\n" * 3 + b"set q 0 0 11 noreply\r\n12345678901\r\nversion\r\n")
        assert client.line() == b"VERSION 2.4.8\r\n"
        client.send(b"flush_all noreply\r\nflush_all 0 noreply\r\nflush_all\r\n")
        assert client.line() == b"Flushed all queues.\r\n"
        assert client.get("small") is None
        assert client.put("noreply", b"x") == b"STORED\r\n"
        assert client.ask(b"delete noreply\r\n") == b"DELETED\r\n"


HTTP = b"POST /queues/q/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 17\r\n\r\nset q 0 0 1\r\nx\r\n"
PROXY_2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12)
FOREIGN = {
    "binary memcache": (b"\x80\x0b" + bytes(22), b""),
    "HTTP": (HTTP, b"CLIENT_ERROR this port speaks the memcache protocol of Kestrel, not HTTP\r\n"),
    "the PROXY protocol": (PROXY_2, b""),
    "an unknown protocol": (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b""),
}


@pytest.mark.parametrize("protocol", FOREIGN)
def test_another_protocol_is_told_and_closed_at_once(tmp_path: Path, protocol: str) -> None:
    """By its first bytes, though no line ends; nothing of it is run, and one line in the log says which it is."""
    begin, answer = FOREIGN[protocol]
    with BrokerProcess(tmp_path / "data", "--fsync", "off") as broker:
        for _ in range(30):
            client = broker.client()
            with contextlib.suppress(OSError):
                client.send(begin)
            assert client.read_all() == answer
        line = broker.wait_for_log("disconnected").string
        assert f" disconnected: sent {protocol}; only the text protocol of memcache is supported" in line
        assert "127.0.0.1:" in line
        assert broker.client().get("q/peek") is None
        assert broker.stop() == 0
        rest = broker.process.stderr.read().decode()  # type: ignore[union-attr]
        assert "disconnected: sent" not in rest, "a flood of such clients fills the log"


def test_the_proxy_protocol_of_version_1(broker: BrokerProcess) -> None:
    """HAProxy's `send-proxy`."""
    client = broker.client()
    client.send(b"PROXY TCP4 10.0.0.1 10.0.0.2 40000 22133\r\nversion\r\n")
    assert client.read_all().endswith(b", not the PROXY protocol\r\n")


def test_a_tls_client_is_told_at_once(broker: BrokerProcess) -> None:
    """A handshake fails at once, and does not wait for a time-out."""
    context = ssl.create_default_context()
    with (
        socket.create_connection(("127.0.0.1", broker.port), 10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),  # and not TimeoutError
    ):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("line", [b"GET q\r\n", b"GET q/open/t=1 \r\n", b"DELETE q\r\n", b"PROXYQUEUE\r\n"])
def test_upper_case_commands_are_no_http(client: MemcacheClient, line: bytes) -> None:
    """Commands in upper case stay commands."""
    client.send(line)
    assert client.line() in (b"END\r\n", b"DELETED\r\n", b"CLIENT_ERROR\r\n")


class _Keeper:
    def __init__(self) -> None:
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


def test_buffer_limit_drops_who_stalls() -> None:
    """Who has made no progress for longest goes first, and no more go than must."""
    limit = BufferLimit(100)
    keepers = [_Keeper() for _ in range(4)]
    for keeper in keepers[:3]:
        limit.progress(keeper, 30)
    limit.progress(keepers[0], 31)
    limit.progress(keepers[3], 30)
    assert [keeper.dropped for keeper in keepers] == [False, True, False, False]
    assert limit.used_bytes == 91
    limit.progress(keepers[3], 0)
    limit.progress(keepers[2], 101)
    assert [keeper.dropped for keeper in keepers] == [True, True, True, False]
    assert limit.used_bytes == 0


def test_half_sent_items_are_bounded(tmp_path: Path) -> None:
    """Five clients with nearly 32 MiB each stay below the limit; a stalled one gets an error, memory is freed."""
    limits = ("--max-item-bytes", str(32 * MEBIBYTE), "--max-buffered-bytes", str(64 * MEBIBYTE))
    with BrokerProcess(tmp_path / "data", "--fsync", "off", *limits) as broker:
        normal = broker.client(30)
        assert normal.put("q", b"x" * MEBIBYTE) == b"STORED\r\n"
        assert normal.get("q") is not None
        quiet_bytes = broker.rss_bytes()
        half_sent = [broker.client(10) for _ in range(5)]
        most_bytes = 0
        for client in half_sent:
            with contextlib.suppress(OSError):
                client.send(b"set big 0 0 %d\r\n" % (32 * MEBIBYTE))
                for _ in range(30):
                    client.send(b"x" * MEBIBYTE)
                most_bytes = max(most_bytes, broker.rss_bytes())
            assert normal.put("q", b"y" * MEBIBYTE) == b"STORED\r\n"
            assert normal.get("q") == b"y" * MEBIBYTE
        assert most_bytes - quiet_bytes < 100 * MEBIBYTE, f"{(most_bytes - quiet_bytes) / MEBIBYTE:.0f} MiB"
        broker.wait_for_log(r"is disconnected: incomplete items and unread answers reach 67108864 bytes")
        told = [client.read_all() for client in half_sent[:3]]
        assert told.count(b"SERVER_ERROR out of memory for incomplete items; send it again later\r\n") >= 2
        last = half_sent[-1]
        last.send(b"x" * 2 * MEBIBYTE + b"\r\n")
        assert last.line() == b"STORED\r\n"
        for client in half_sent:
            client.close()
        assert normal.ask(b"delete big\r\n") == b"DELETED\r\n"
        until(lambda: broker.rss_bytes() - quiet_bytes <= 20 * MEBIBYTE, lambda: "its memory is not given back")


def test_the_memory_of_large_items_returns(tmp_path: Path) -> None:
    """Although a later item lies behind each. By default the allocator keeps the memory of the second."""
    with BrokerProcess(tmp_path / "data", "--fsync", "off") as broker:
        client = broker.client(10)
        quiet_bytes = broker.rss_bytes()
        for _ in range(2):
            assert client.put("q", b"x" * 16 * MEBIBYTE) == b"STORED\r\n"
            assert client.put("later", b"y" * 100_000) == b"STORED\r\n"
            assert client.ask(b"flush q\r\n") == b"END\r\n"
        until(lambda: broker.rss_bytes() - quiet_bytes < 24 * MEBIBYTE, lambda: "it is kept", within_s=10)


def test_answers_that_nobody_reads_are_bounded(tmp_path: Path) -> None:
    """One large item, peeked at by clients that do not read: the same limit, and a client that reads gets it whole."""
    with BrokerProcess(tmp_path / "data", "--fsync", "off", "--max-buffered-bytes", str(64 * MEBIBYTE)) as broker:
        client = broker.client(10)
        item = bytes(range(256)) * (16 * MEBIBYTE // 256)
        assert client.put("big", item) == b"STORED\r\n"
        quiet_bytes = broker.rss_bytes()
        silent = [broker.client() for _ in range(12)]
        for each in silent:
            each.send(b"get big/peek\r\n" * 3)
            assert select.select([each.socket], [], [], 10)[0]
        assert broker.rss_bytes() - quiet_bytes < 130 * MEBIBYTE
        assert client.get("big/peek") == item
        broker.wait_for_log("unread answers")


def test_silent_connections_make_room(tmp_path: Path) -> None:
    """At the limit the oldest that never sent a command is closed. If all did, a new one gets an error."""
    with BrokerProcess(tmp_path / "data", "--fsync", "off", "--max-connections", "20") as broker:
        idle = [broker.client() for _ in range(5)]
        for client in idle:
            assert client.ask(b"version\r\n") == b"VERSION 2.4.8\r\n"
        silent = [broker.client() for _ in range(15)]
        for _ in range(10):
            client = broker.client()
            assert client.put("q", b"x") == b"STORED\r\n"
            assert client.get("q/open") == b"x"
            assert client.ask(b"confirm q 1\r\n") == b"END\r\n"
            idle.append(client)
        assert [client.read_all() for client in silent[:10]] == [b""] * 10
        broker.wait_for_log(r"connection limit \(20\) reached: .* which has sent no command yet")
        for client in silent[10:]:
            assert client.ask(b"version\r\n") == b"VERSION 2.4.8\r\n"
        assert broker.client().read_all() == b"SERVER_ERROR too many connections\r\n"
        for client in idle:
            assert client.ask(b"version\r\n") == b"VERSION 2.4.8\r\n"
        silent[10].close()
        until(lambda: _version(broker) == b"VERSION 2.4.8\r\n", lambda: "a place that is free is not given")


def _version(broker: BrokerProcess) -> bytes:
    with contextlib.closing(broker.client()) as client:
        client.send(b"version\r\n")
        return client.line()


def test_thousands_of_silent_connections_slow_nobody_down(tmp_path: Path) -> None:
    """A client that works does not notice them: its requests cost no more, and its reads are served."""
    count = examples(12_000, fewest=8000)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"the system allows {hard} open files, {count + 500} are needed")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    silent: list[socket.socket] = []
    try:
        with BrokerProcess(tmp_path / "data", "--fsync", "off", "--max-connections", str(count + 100)) as broker:
            quiet_ms = _round_trip_ms(broker)
            silent.extend(socket.create_connection(("127.0.0.1", broker.port), 10) for _ in range(count))
            assert broker.stat("curr_connections") >= count
            beside_ms = _round_trip_ms(broker)
            assert broker.rss_bytes() < count * MEBIBYTE // 40
            for one in silent:
                one.close()
            broker.wait_for_stat("curr_connections", 1, 20)
    finally:
        for one in silent:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert beside_ms < 3 * quiet_ms, f"the CPU time of a round trip went from {quiet_ms:.2f} to {beside_ms:.2f} ms"


def _round_trip_ms(broker: BrokerProcess) -> float:
    """The broker's CPU time for a new connection with a set, a reliable read and its ack."""
    before_s = broker.cpu_s()
    for _ in range(300):
        with contextlib.closing(broker.client(10)) as client:
            assert client.put("q", b"x") == b"STORED\r\n"
            assert client.get("q/open") == b"x"
            assert client.ask(b"confirm q 1\r\n") == b"END\r\n"
    return (broker.cpu_s() - before_s) / 300 * 1000
