"""Connections: order of answers, waits, vanishing clients, slow readers, limits. On real sockets."""

from __future__ import annotations

import contextlib
import re
import socket
import time

import pytest

from tests.lab.broker import BrokerProcess
from tests.lab.examples import examples
from tests.lab.memcache import MemcacheClient


def test_a_connection_reads_its_own_writes(client: MemcacheClient, name: str) -> None:
    """Commands pipelined in one write see each other, in order, although sets wait for their commit."""
    key = name.encode()
    client.send(
        b"set %b 0 0 1\r\na\r\nget %b\r\nset %b 0 0 1\r\nb\r\nget %b/open\r\nconfirm %b 1\r\nget %b\r\n" % ((key,) * 6)
    )
    taken = b"VALUE %b 0 1\r\n%b\r\nEND\r\n"
    wanted = b"STORED\r\n" + taken % (key, b"a") + b"STORED\r\n" + taken % (key, b"b") + b"END\r\nEND\r\n"
    assert client.read(len(wanted)) == wanted


def test_many_pipelined_commands_are_answered_in_order(client: MemcacheClient, name: str) -> None:
    """Thousands of sets, then gets, in one stream: every answer, in order."""
    count = 3000
    client.send(b"".join(b"set %b 0 0 4\r\n%04d\r\n" % (name.encode(), i) for i in range(count)))
    assert client.read(8 * count) == b"STORED\r\n" * count
    client.send(b"get %b\r\n" % name.encode() * count)
    assert [client.value() for _ in range(count)] == [b"%04d" % i for i in range(count)]
    assert client.get(name) is None


def test_a_wait_ends_at_its_time(client: MemcacheClient, name: str) -> None:
    """A wait ends with END at its time: not before, and not much later."""
    for wait_ms in (1, 20, 150):
        took_ms = []
        for _ in range(3):
            start = time.monotonic()
            assert client.get(f"{name}/t={wait_ms}") is None
            took_ms.append((time.monotonic() - start) * 1000)
        assert wait_ms - 1.5 <= min(took_ms) < wait_ms + 60, "a busy machine may delay an answer, but not each"


def test_waiters_are_served_in_order(broker: BrokerProcess, client: MemcacheClient, name: str) -> None:
    """Two hundred blocked gets get two hundred items in the order in which they came."""
    waiters = []
    for _ in range(200):
        waiters.append(broker.client())
        waiters[-1].send(f"get {name}/t=20000/open\r\n".encode())
        if len(waiters) % 50 == 0:
            broker.wait_for_stat(f"queue_{name}_waiters", len(waiters))
    client.send(b"".join(b"set %b 0 0 3\r\n%03d\r\n" % (name.encode(), i) for i in range(200)))
    got = [waiter.value() for waiter in waiters]
    for waiter in waiters:
        waiter.close()
    # Connections of one slice of fifty may have been read by the broker in another order than they were opened.
    for start in range(0, 200, 50):
        assert sorted(each or b"" for each in got[start : start + 50]) == [
            b"%03d" % i for i in range(start, start + 50)
        ]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("behind", [b"", b"version\r\n", b"x" * 200_000])
def test_a_vanished_waiter_takes_nothing(
    broker: BrokerProcess, client: MemcacheClient, name: str, reset: bool, behind: bytes
) -> None:
    """A blocked client that goes is no waiter any more, also with commands behind its get; the next item is kept."""
    gone = broker.client()
    gone.send(f"get {name}/t=20000\r\n".encode())
    broker.wait_for_stat(f"queue_{name}_waiters", 1)
    gone.send(behind)
    gone.reset() if reset else gone.close()
    broker.wait_for_stat(f"queue_{name}_waiters", 0)
    assert client.put(name, b"kept") == b"STORED\r\n"
    assert client.get(name) == b"kept"


def test_open_read_of_a_vanishing_client_is_never_lost(
    broker: BrokerProcess, client: MemcacheClient, name: str
) -> None:
    """A hundred clients go at the instant their item arrives: each item is there for the next reader."""
    for i in range(100):
        gone = broker.client()
        gone.send(f"get {name}/t=20000/open\r\n".encode())
        if i % 2:
            broker.wait_for_stat(f"queue_{name}_waiters", 1)
        client.send(b"set %b 0 0 3\r\n%03d\r\n" % (name.encode(), i))
        gone.reset() if i % 3 else gone.close()
        assert client.line() == b"STORED\r\n"
        assert client.get(f"{name}/t=2000") == b"%03d" % i


def test_disconnect_gives_back_in_reverse(broker: BrokerProcess, client: MemcacheClient, name: str) -> None:
    """Several open reads of one connection go back to the head, the last one first."""
    for data in (b"1", b"2", b"3", b"4"):
        client.put(name, data)
    holder = broker.client()
    assert [holder.get(f"{name}/open") for _ in range(3)] == [b"1", b"2", b"3"]
    holder.close()
    broker.wait_for_stat(f"queue_{name}_items", 4)
    assert [client.get(name) for _ in range(4)] == [b"3", b"2", b"1", b"4"]


def test_half_closed_client_gets_its_answers(broker: BrokerProcess, name: str) -> None:
    """A client that says all it has to say and shuts down its side still reads what its sets have earned."""
    talker = broker.client()
    talker.send(b"set %b 0 0 1\r\nx\r\n" % name.encode())
    talker.socket.shutdown(socket.SHUT_WR)
    assert talker.read_all() == b"STORED\r\n"
    talker.close()


@pytest.mark.parametrize("reset", [False, True])
def test_the_items_of_a_vanished_monitor_come_back(
    broker: BrokerProcess, client: MemcacheClient, name: str, reset: bool
) -> None:
    """A client that goes during its monitor is noticed at once; its items come back. Better than Kestrel (6f, 6f2)."""
    client.put(name, b"1")
    gone = broker.client()
    gone.send(f"monitor {name} 30 10\r\n".encode())
    assert gone.value() == b"1"
    broker.wait_for_stat(f"queue_{name}_waiters", 1)
    gone.reset() if reset else gone.close()
    broker.wait_for_stat(f"queue_{name}_waiters", 0)
    assert client.get(name) == b"1"


def test_slow_reader_is_not_buffered_for(broker: BrokerProcess, client: MemcacheClient, name: str) -> None:
    """A client that asks for much and reads nothing is not served on; others are, and it gets all of it later."""
    body = b"x" * 500_000
    client.put(name, body)
    slow = broker.client(20)
    with contextlib.suppress(TimeoutError):
        slow.socket.settimeout(1)
        slow.send(f"get {name}/peek\r\n".encode() * 400)
    slow.socket.settimeout(20)
    broker.wait_for_stat("curr_connections", broker.stat("curr_connections"))
    assert broker.rss_bytes() < 150_000_000
    assert client.ask(b"version\r\n") == b"VERSION 2.4.8\r\n"
    for _ in range(400):
        assert slow.value() == body
    slow.close()


def test_slow_reader_that_goes_is_noticed(broker: BrokerProcess, client: MemcacheClient, name: str) -> None:
    """An open read of a client that read nothing and then went comes back, though the broker was not reading it."""
    client.put(name, b"y" * 20_000_000)
    slow = broker.client()
    slow.send(f"get {name}/open\r\n".encode())
    broker.wait_for_stat(f"queue_{name}_open_transactions", 1)
    slow.close()
    broker.wait_for_stat(f"queue_{name}_items", 1)


def test_a_line_without_end_is_refused(client: MemcacheClient) -> None:
    """A line of more than 64 KiB is refused, not collected."""
    with contextlib.suppress(ConnectionError):
        client.send(b"x" * 1_000_000)
    assert client.read_all() in (b"CLIENT_ERROR line too long\r\n", b"")


def test_items_of_every_size_come_back(broker: BrokerProcess, client: MemcacheClient, name: str) -> None:
    """Empty to large, binary: each comes back as it was; over the server's limit it is not stored, and skipped."""
    for body in (b"", b"\r\n", b"END\r\n", bytes(range(256)) * 40, b"z" * 5_000_000):
        assert client.put(name, body) == b"STORED\r\n"
        assert client.get(name) == body
    client.send(b"set %b 0 0 70000000\r\n" % name.encode())
    for _ in range(70):
        client.send(b"x" * 1_000_000)
    assert client.ask(b"\r\nversion\r\n") == b"NOT_STORED\r\n"
    assert client.line() == b"VERSION 2.4.8\r\n"


def test_old_clients_are_understood(client: MemcacheClient, name: str) -> None:
    """What Ruby's kestrel-client and pykestrel send: trailing spaces, upper case, LF alone."""
    key = name.encode()
    assert client.ask(b"VERSION\n") == b"VERSION 2.4.8\r\n"
    client.put(name, b"1")
    client.send(b"get %b/open/t=10 \r\n" % key)
    assert client.value() == b"1"
    assert client.ask(b"GET %b/close \n" % key) == b"END\r\n"
    client.send(b"STATS\n")
    assert b"STAT version 2.4.8\r\n" in client.read_until(b"END\r\n")
    client.send(b"DUMP_STATS\r\n")
    assert client.read_until(b"END\r\n").startswith(b"queue '")
    assert client.ask(b"FLUSH %b\r\n" % key) == b"END\r\n"
    assert client.ask(b"delete %b \r\n" % key) == b"DELETED\r\n"


def test_each_status_refuses_what_it_should(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read-only and quiescent refuse what they should, still let clients settle, and hold after a restart."""
    data = tmp_path_factory.mktemp("status") / "data"
    with BrokerProcess(data, "--fsync", "off") as broker:
        client, holder = broker.client(), broker.client()
        client.put("q", b"1")
        client.put("q", b"2")
        assert holder.get("q/open") == b"1"
        assert client.ask(b"status readonly\r\n") == b"END\r\n"
        assert client.ask(b"status\r\n") == b"READONLY\r\n"
        refused = broker.client()
        assert refused.put("q", b"3").startswith(b"SERVER_ERROR")
        assert refused.read_all() == b""
        assert client.get("q/peek") == b"2"
        assert client.ask(b"status quiescent\r\n") == b"END\r\n"
        assert holder.ask(b"confirm q 1\r\n") == b"END\r\n"
        assert holder.ask(b"get q\r\n").startswith(b"SERVER_ERROR")
        broker.stop()
    with BrokerProcess(data, "--fsync", "off") as broker:
        client = broker.client()
        assert client.ask(b"status\r\n") == b"QUIESCENT\r\n"
        assert client.ask(b"status up\r\n") == b"END\r\n"
        assert client.get("q") == b"2"


def test_refusal_is_readable_while_sending(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A client that sends much at once can still read why it was refused: no reset destroys the answer."""
    with BrokerProcess(tmp_path_factory.mktemp("refusal") / "data", "--fsync", "off") as broker:
        assert broker.client().ask(b"status readonly\r\n") == b"END\r\n"
        for _ in range(10):
            client = broker.client()
            client.send(b"set q 0 0 20000\r\n%b\r\n" % (b"x" * 20_000) * 100)
            assert client.read_until(b"\r\n") == b"SERVER_ERROR readonly\r\n"
            assert client.socket.recv(100) == b""
            client.close()


def test_shutdown_ends_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`shutdown` ends the process with 0: waiters get END, connected clients are served briefly, new ones are not."""
    with BrokerProcess(tmp_path_factory.mktemp("shutdown") / "data", "--fsync", "off") as broker:
        waiter, idle, asker = broker.client(), broker.client(), broker.client()
        waiter.send(b"get q/t=20000\r\n")
        broker.wait_for_stat("queue_q_waiters", 1)
        asker.send(b"shutdown\r\n")
        assert asker.read_all() == b""
        assert waiter.value() is None
        assert idle.ask(b"version\r\n") == b"VERSION 2.4.8\r\n"
        assert broker.process.wait(30) == 0


def test_a_broker_without_a_queue_has_nothing_to_dump(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A blank line, as Kestrel 2.4.8 says it."""
    with BrokerProcess(tmp_path_factory.mktemp("empty") / "data", "--fsync", "off") as broker:
        client = broker.client()
        client.send(b"dump_stats\r\n")
        assert client.read_until(b"END\r\n") == b"\r\nEND\r\n"


def test_a_repeated_name_is_dumped_once(client: MemcacheClient, name: str) -> None:
    """A line of 64 KB cannot ask for the same figures 20,000 times; each name keeps its place."""
    client.put(name, b"1")
    names = f"{name} nosuch " * 2500
    client.send(f"dump_stats {names}\r\n".encode())
    answer = client.read_until(b"END\r\n")
    assert re.findall(rb"queue '(.*)' {", answer) == [name.encode(), b"nosuch"]
    assert answer.count(b"  items=1\r\n") == 1


def test_fanout_child_outlives_a_kill(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A child that was named once gets every later set, also after kill -9 right after its answer; until deleted."""
    data = tmp_path_factory.mktemp("fanout") / "data"
    with BrokerProcess(data, "--fsync", "off") as broker:
        assert broker.client().get("q+child") is None
        broker.kill()
    with BrokerProcess(data, "--fsync", "off") as broker:
        client = broker.client()
        client.put("q", b"1")
        assert [client.get("q+child"), client.get("q")] == [b"1", b"1"]
        client.send(b"dump_stats q\r\n")
        assert b"  children=q+child\r\n" in client.read_until(b"END\r\n")
        assert client.ask(b"delete q+child\r\n") == b"DELETED\r\n"
        broker.kill()
    with BrokerProcess(data, "--fsync", "off") as broker:
        assert broker.stat("queue_q+child_items") == 0
        client = broker.client()
        client.put("q", b"2")
        assert client.stats().get("queue_q+child_items") is None


def test_backlog_larger_than_the_window(broker: BrokerProcess, client: MemcacheClient, name: str) -> None:
    """Items that are only on disk come in order, and a reader that does not wait gets them, too."""
    count = 2500  # 1,024 are read ahead
    client.send(b"".join(b"set %b 0 0 6\r\n%06d\r\n" % (name.encode(), i) for i in range(count)))
    client.read(8 * count)
    assert broker.stat(f"queue_{name}_mem_items") < count
    client.send(b"get %b/open\r\nget %b/close\r\n" % ((name.encode(),) * 2) * count)
    for i in range(count):
        assert client.value() == b"%06d" % i
        assert client.line() == b"END\r\n"
    assert client.get(name) is None


def test_flush_and_delete_of_a_backlog(
    broker: BrokerProcess, client: MemcacheClient, other: MemcacheClient, name: str
) -> None:
    """Both include items that are only on disk, leave later ones, and the counters end at zero."""
    for command, answer in ((b"flush", b"END\r\n"), (b"delete", b"DELETED\r\n")):
        client.send(b"set %b 0 0 1\r\nx\r\n" % name.encode() * 6000)
        client.read(8 * 6000)
        client.send(command + b" " + name.encode() + b"\r\n")
        assert client.put(name, b"new") == answer
        assert client.line() == b"STORED\r\n"
        assert other.get(name) == b"new"
        assert other.get(name) is None
        assert other.stats()[f"queue_{name}_bytes"] == "0"


def test_limits_of_a_ring_hold_after_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A ring keeps its newest items, also when it was over its limit at the start."""
    data = tmp_path_factory.mktemp("ring") / "data"
    with BrokerProcess(data, "--fsync", "off") as broker:
        client = broker.client()
        for i in range(10):
            client.put("ring", b"%d" % i)
    with BrokerProcess(
        data, "--fsync", "off", config="[queues.ring]\nmax_items = 3\ndiscard_old_when_full = true"
    ) as broker:
        client = broker.client()
        client.put("ring", b"new")
        broker.wait_for_stat("queue_ring_items", 3)
        assert [client.get("ring") for _ in range(4)] == [b"8", b"9", b"new", None]


def test_expired_backlog_moves_after_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`expire_to_queue` moves items that expired while no broker ran, without a command on the queue."""
    data = tmp_path_factory.mktemp("expire") / "data"
    with BrokerProcess(data, "--fsync", "off") as broker:
        for i in range(5):
            broker.client().put("jobs", b"%d" % i, 1)
    config = '[queues.jobs]\nexpire_to_queue = "done"'
    with BrokerProcess(data, "--fsync", "off", config=config) as broker:
        client = broker.client()
        assert [client.get("done/t=4000") for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        assert client.stats()["queue_jobs_items"] == "0"


def test_thousands_of_connections_each_get_their_item(broker: BrokerProcess, client: MemcacheClient, name: str) -> None:
    """Thousands of parked readers (as many as this machine's descriptors allow): each gets its item."""
    count = examples(2000, fewest=1000)
    waiters = []
    for _ in range(count):
        waiters.append(broker.client(20))
        waiters[-1].send(f"get {name}/t=60000/open\r\n".encode())
    broker.wait_for_stat(f"queue_{name}_waiters", count, 20)
    client.send(b"set %b 0 0 1\r\nx\r\n" % name.encode() * count)
    assert client.read(8 * count) == b"STORED\r\n" * count
    for waiter in waiters:
        assert waiter.value() == b"x"
        waiter.close()
    broker.wait_for_stat(f"queue_{name}_items", count, 20)
    assert client.ask(b"flush %b\r\n" % name.encode()) == b"END\r\n"
