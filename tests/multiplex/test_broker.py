"""The broker's side of the multiplexed connection, on real sockets: each operation, each code, and its end."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.common.multiplex import messages
from gateway.common.multiplex.frames import HEAD, LAST, FrameKind, frame
from gateway.common.multiplex.messages import Code, Opening
from tests.lab.forkserver import ForkedProcess
from tests.multiplex.client import MultiplexClient, Rig, mode_of

MIB = 1 << 20
_names = itertools.count()


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("multiplex") / "data") as running:
        yield running


@pytest.fixture
def worker(broker) -> Iterator[MultiplexClient]:
    made = broker.worker()
    yield made
    made.close()


@pytest.fixture
def other(broker) -> Iterator[MultiplexClient]:
    made = broker.worker()
    yield made
    made.close()


@pytest.fixture
def name() -> str:
    return f"queue{next(_names)}"


def test_the_socket_is_for_this_user_alone(broker):
    """Mode 0600, like every socket of the broker; it is not among the addresses for memcache clients."""
    assert mode_of(broker.socket) == 0o600
    assert broker.socket not in "".join(broker.log)


def test_items_are_stored_taken_and_confirmed(worker, name):
    """In order; a confirmed item is gone, also for another connection."""
    assert worker.put(name, b"one", b"", b"\0three\r\n") == [Code.OK] * 3
    first, second, third = (worker.take(name) for _ in range(3))
    assert [first[1], second[1], third[1]] == [b"one", b"", b"\0three\r\n"]
    assert worker.take(name) is Code.EMPTY
    assert worker.confirm(first[0], second[0]) == [Code.OK, Code.OK]
    assert worker.abort(third[0]) == [Code.OK]
    assert worker.drain(name) == [b"\0three\r\n"]


def test_the_queues_are_those_of_memcache_clients(broker, worker, name):
    """Both protocols see the same items; statistics count reads and waiters of both."""
    client = broker.client()
    worker.put(name, b"x")
    assert client.get(f"{name}/open") == b"x"
    assert worker.take(name) is Code.EMPTY
    assert client.get(f"{name}/abort") is None
    id_, data = worker.take(name)
    assert data == b"x"
    assert broker.stat(f"queue_{name}_open_transactions") == 1
    worker.open(name, wait_ms=5000)
    broker.wait_for_stat(f"queue_{name}_waiters", 1)
    worker.confirm(id_)
    assert broker.stat(f"queue_{name}_open_transactions") == 0


def test_an_open_takes_up_to_so_many_items_and_bytes(worker, name):
    """Their ids follow the id of the open; the last one says that the open is over."""
    worker.put(name, *(b"%d" % number * 10 for number in range(6)))
    first = worker.open(name, items=3)
    found = [worker.next(FrameKind.ITEM, first + number) for number in range(3)]
    assert [(each.payload[:1], each.flags) for each in found] == [(b"0", 0), (b"1", 0), (b"2", LAST)]
    second = worker.open(name, items=3, limit_bytes=25)
    found = [worker.next(FrameKind.ITEM, second + number) for number in range(2)]
    assert [each.flags for each in found] == [0, LAST]
    third = worker.open(name, items=3)
    assert worker.next(FrameKind.ITEM, third).flags == LAST
    assert worker.confirm(first, first + 1, first + 2, second, second + 1, third) == [Code.OK] * 6
    assert worker.nothing_comes()


def test_one_item_comes_however_small_the_limit_of_bytes(worker, name):
    """As documented: at least one."""
    worker.put(name, b"x" * 100)
    assert worker.take(name, limit_bytes=1)[1] == b"x" * 100


def test_an_open_has_a_cap_on_the_queue_s_open_reads(worker, name):
    """It takes no more than that with those that are open, and none at the cap."""
    worker.put(name, b"1", b"2", b"3")
    first = worker.open(name, items=3, cap=2)
    assert [worker.next(FrameKind.ITEM, first + number).flags for number in range(2)] == [0, LAST]
    assert worker.take(name, cap=2) is Code.CAPPED
    worker.confirm(first)
    assert worker.take(name, cap=2)[1] == b"3"


def test_a_waiting_open_gets_the_next_item_or_ends(worker, other, name):
    """In the order in which they came; after its time it ends."""
    first, second = worker.open(name, wait_ms=5000), worker.open(name, wait_ms=5000)
    assert worker.nothing_comes()
    other.put(name, b"1", b"2")
    assert worker.answer(first)[1] == b"1"
    assert worker.answer(second)[1] == b"2"
    began_s = time.monotonic()
    assert worker.take(name, wait_ms=200) is Code.EMPTY
    assert time.monotonic() - began_s > 0.19


def test_a_cancelled_open_has_one_answer(worker, other, name):
    """CANCELLED while it waits; nothing more if its item was under way."""
    waiting = worker.open(name, wait_ms=5000)
    worker.cancel(waiting)
    assert worker.answer(waiting) is Code.CANCELLED
    worker.cancel(waiting)
    assert other.put(name, b"x") == [Code.OK]
    taken = worker.open(name)
    worker.cancel(taken)
    assert worker.answer(taken) == (taken, b"x")
    worker.cancel(12345)
    assert worker.nothing_comes()
    assert worker.abort(taken) == [Code.OK]
    assert other.drain(name) == [b"x"]


def test_no_operation_waits_for_another(worker, name):
    """An open that waits, a confirm of nothing and a put answer in any order."""
    waiting = worker.open(f"{name}-empty", wait_ms=5000)
    assert worker.put(name, b"x") == [Code.OK]
    assert worker.take(name)[1] == b"x"
    assert worker.confirm(999) == [Code.UNKNOWN]
    worker.cancel(waiting)
    assert worker.answer(waiting) is Code.CANCELLED


def test_an_open_that_names_a_confirm_waits_for_its_commit(worker, name):
    """The next item comes after the confirm; if the confirm fails, there is none, and the item stays."""
    worker.put(name, b"1", b"2")
    read, _ = worker.take(name)
    open_, confirm = worker.id(), worker.id()
    worker.send(
        frame(FrameKind.OPEN, open_, Opening(name.encode(), after=read).pack()),
        frame(FrameKind.CONFIRM, confirm, messages.pack_ids([read])),
    )
    found = [worker.next(), worker.next()]
    assert [(each.kind, each.id) for each in found] == [(FrameKind.DONE, confirm), (FrameKind.ITEM, open_)]
    worker.abort(open_)
    late, confirm = worker.id(), worker.id()
    worker.send(
        frame(FrameKind.OPEN, late, Opening(name.encode(), after=read).pack()),
        frame(FrameKind.CONFIRM, confirm, messages.pack_ids([read])),
    )
    assert worker.answer(late) is Code.FAILED
    assert messages.unpack_outcome(worker.next(FrameKind.DONE, confirm).payload, 1)[0] == [Code.UNKNOWN]
    cancelled = worker.open(name, after=worker.id())
    worker.cancel(cancelled)
    assert worker.answer(cancelled) is Code.CANCELLED
    assert worker.drain(name) == [b"2"]


def test_aborted_items_go_back_in_the_order_of_the_abort(worker, name):
    """Before anyone gets the first of them."""
    worker.put(name, *(b"%d" % number for number in range(5)))
    first = worker.open(name, items=4)
    for number in range(4):
        worker.next(FrameKind.ITEM, first + number)
    waiting = worker.open(f"{name}", wait_ms=1)
    assert worker.answer(waiting)[1] == b"4"
    blocked = worker.open(name, wait_ms=5000)
    assert worker.abort(*range(first, first + 4)) == [Code.OK] * 4
    assert worker.answer(blocked)[1] == b"0"
    assert worker.drain(name) == [b"1", b"2", b"3"]


def test_peek_and_create(broker, worker, name):
    """A peek takes and creates nothing; a created queue exists; a fanout child gets what is put to its parent later."""
    peek = worker.id()
    worker.send(frame(FrameKind.PEEK, peek, name.encode()))
    assert worker.answer(peek) is Code.EMPTY
    assert name not in broker.client().queues()
    worker.put(name, b"x")
    peek = worker.id()
    worker.send(frame(FrameKind.PEEK, peek, name.encode()))
    assert worker.next(FrameKind.PEEKED, peek).payload == b"x"
    create = worker.id()
    worker.send(frame(FrameKind.CREATE, create, f"{name}+child".encode()))
    assert worker.next(FrameKind.DONE, create).payload == b""
    worker.put(name, b"y")
    assert worker.drain(f"{name}+child") == [b"y"]
    assert worker.drain(name) == [b"x", b"y"]
    other = f"{name}+other"
    assert worker.take(other, wait_ms=5000) is Code.EMPTY, "an open creates no child"
    worker.put(name, b"not for the child")
    assert worker.take(other) is Code.EMPTY
    peek = worker.id()
    worker.send(frame(FrameKind.PEEK, peek, other.encode()))
    assert worker.answer(peek) is Code.EMPTY
    worker.put(name, b"nor for a child that was looked at")
    assert worker.take(other) is Code.EMPTY
    create = worker.id()
    worker.send(frame(FrameKind.CREATE, create, other.encode()))
    assert worker.next(FrameKind.DONE, create).payload == b""
    broker.kill()
    broker.start()
    with contextlib.closing(broker.worker()) as again:
        again.put(name, b"z")
        assert again.drain(other) == [b"z"], "it is on disk"


@pytest.mark.parametrize("key", ["", "a/b", "a b", "a.b"])
def test_an_illegal_name_answers_one_id(worker, name, key):
    """For every operation that names a queue; the connection goes on."""
    assert worker.put(key, b"x", b"y") == [Code.ILLEGAL_NAME] * 2
    assert worker.take(key) is Code.ILLEGAL_NAME
    for kind in (FrameKind.PEEK, FrameKind.CREATE):
        id_ = worker.id()
        worker.send(frame(kind, id_, key.encode()))
        assert messages.unpack_outcome(worker.next(None, id_).payload, 1)[0] == [Code.ILLEGAL_NAME]
    assert worker.put(name, b"x") == [Code.OK]


def test_large_items_go_in_and_out_in_pieces(worker, name):
    """Byte for byte; a small one of another queue comes in between."""
    large = os.urandom(5 * MIB)
    assert worker.put(name, large) == [Code.OK]
    worker.put(f"{name}-small", b"small")
    worker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    first = worker.open(name)
    second = worker.open(f"{name}-small")
    order = [worker.next().id for _ in range(2)]
    assert order == [second, first]
    worker.abort(first)
    assert worker.take(name)[1] == large


def test_limits_and_states_answer_one_id(tmp_path):
    """Full, too large, readonly for puts only, quiescent for opens only."""
    config = (
        "[default]\nmax_item_bytes = 100\n[queues.full]\nmax_items = 1\n[queues.three]\nmax_items = 3\n"
        "[queues.bytes]\nmax_bytes = 10\n"
    )
    with Rig(tmp_path / "data", config=config) as broker, contextlib.closing(broker.worker()) as worker:
        assert worker.put("q", b"x" * 101, b"ok") == [Code.TOO_LARGE, Code.OK]
        assert worker.put("full", b"1") == [Code.OK]
        assert worker.put("full", b"2", b"3") == [Code.FULL, Code.FULL]
        assert worker.put("three", b"1", b"2") == [Code.OK, Code.OK]
        assert worker.put("three", b"x" * 101, b"3", b"4") == [Code.TOO_LARGE, Code.OK, Code.FULL]
        assert worker.drain("three") == [b"1", b"2", b"3"]
        assert worker.put("bytes", b"123456", b"123456", b"1") == [Code.OK, Code.OK, Code.FULL]
        broker.ask("status readonly")
        assert worker.put("q", b"no") == [Code.REFUSED]
        read = worker.take("q")[0]
        broker.ask("status quiescent")
        assert worker.take("full") is Code.REFUSED
        assert worker.confirm(read) == [Code.OK]
        broker.ask("status up")
        assert worker.drain("full") == [b"1"]


def test_the_largest_item_of_any_queue_may_be_smaller_than_a_frame(tmp_path):
    """Whatever the file of limits allows, also after it is read again; the other items of the frame are stored."""
    config = "[queues.more]\nmax_item_bytes = 1000\n"
    with Rig(tmp_path / "data", "--max-item-bytes", "100", config=config) as broker:
        with contextlib.closing(broker.worker()) as worker:
            for _ in range(2):
                for queue in ("q", "q+child", "more"):
                    assert worker.put(queue, b"x" * 101, b"y" * 100) == [Code.TOO_LARGE, Code.OK], queue
                broker.ask("reload")


def test_expiry_is_that_of_set(worker, name):
    """Seconds from now, or an absolute time."""
    assert worker.put(name, b"old", expiry=int(time.time()) - 10) == [Code.OK]
    assert worker.put(name, b"absolute", expiry=int(time.time()) + 100) == [Code.OK]
    assert worker.put(name, b"relative", expiry=100) == [Code.OK]
    assert worker.drain(name) == [b"absolute", b"relative"]


def test_reads_that_the_broker_ends_are_reported(tmp_path):
    """By time-out, when another read finds the queue not empty, and by a delete; a confirm after that is unknown."""
    config = "[queues.q]\nopen_transaction_timeout = 0.2\n"
    with Rig(tmp_path / "data", config=config) as broker, contextlib.closing(broker.worker()) as worker:
        worker.put("q", b"1", b"2")
        first, _ = worker.item("q")
        time.sleep(0.3)
        again = worker.item("q")
        assert worker.next(FrameKind.TAKEN_BACK, first).payload == b""
        assert again[1] == b"1"
        assert worker.settle(FrameKind.CHECK, first, again[0]) == [Code.UNKNOWN, Code.OK]
        assert worker.confirm(first) == [Code.UNKNOWN]
        assert broker.ask("delete q") == "DELETED"
        assert worker.next(FrameKind.TAKEN_BACK, again[0]).payload == b"\1"
        assert worker.confirm(again[0]) == [Code.UNKNOWN]
        assert worker.abort(again[0]) == [Code.UNKNOWN]


def test_the_end_of_a_connection_puts_its_items_back_in_order(broker, worker, other, name):
    """No waiter of its own gets one; one of another connection gets the first; nobody an older attempt."""
    worker.put(name, *(b"%d" % number for number in range(9)))
    first = worker.open(name, items=9)
    for number in range(9):
        worker.next(FrameKind.ITEM, first + number)
    worker.confirm(first + 4)
    for _ in range(3):
        worker.open(name, wait_ms=60_000)
    broker.wait_for_stat(f"queue_{name}_waiters", 3)
    waiting = other.open(name, wait_ms=60_000)
    broker.wait_for_stat(f"queue_{name}_waiters", 4)
    worker.close()
    assert other.answer(waiting)[1] == b"0"
    assert other.drain(name) == [b"1", b"2", b"3", b"5", b"6", b"7", b"8"]


HOLDER = """
import sys
from tests.multiplex.client import MultiplexClient
worker = MultiplexClient(sys.argv[1])
for number in range(25):
    first = worker.open(f"q{number}", items=100)
    for count in range(100):
        worker.next(None, first + count)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_worker_with_thousands_of_reads(tmp_path):
    """`kill -9` with 2,500 reads on 25 queues, and 25 polls of another worker: order is kept, all within a second."""
    with Rig(tmp_path / "data") as broker, contextlib.closing(broker.worker()) as other:
        for number in range(25):
            other.put(f"q{number}", *(b"%03d" % count for count in range(100)))
        (tmp_path / "holder.py").write_text(HOLDER)
        process: subprocess.Popen[bytes] = ForkedProcess(
            [sys.executable, str(tmp_path / "holder.py"), broker.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == b"held\n"
            waiting = [other.open(f"q{number}", wait_ms=60_000) for number in range(25)]
            broker.wait_for_stat("queue_q24_waiters", 1)
            began_s = time.monotonic()
            process.kill()
            found: dict[int, list[bytes]] = {}
            for number, id_ in enumerate(waiting):
                found[number] = [other.answer(id_)[1]]
            for number in range(25):
                first = other.open(f"q{number}", items=99)
                found[number] += [other.next(FrameKind.ITEM, first + count).payload for count in range(99)]
            assert time.monotonic() - began_s < 30, "they would wait for a minute"
            expected = [b"%03d" % count for count in range(100)]
            assert all(each == expected for each in found.values())
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def test_a_worker_that_does_not_read_holds_up_nobody(broker, worker, name):
    """Without credit it gets no further item: its waiting opens are passed over until it has credit again."""
    frozen = broker.worker(item_bytes=10)
    worker.put(name, b"first")
    assert frozen.take(name)[1] == b"first"
    large = b"x" * 200_000
    worker.put(f"{name}-large", large)
    frozen.open(f"{name}-large")  # in pieces, which wait for credit
    patient = frozen.open(name, wait_ms=60_000)
    broker.wait_for_stat(f"queue_{name}-large_open_transactions", 1)
    time.sleep(0.1)
    worker.put(name, b"second")
    assert worker.take(name, wait_ms=5000)[1] == b"second"
    frozen.send(frame(FrameKind.CREDIT, 0, messages.pack_credit(1 << 30, 0)))
    assert frozen.next(FrameKind.ITEM, patient - 1).item == large
    worker.put(name, b"third")
    assert frozen.answer(patient)[1] == b"third"
    frozen.close()


def test_a_waiter_without_credit_is_passed_over_and_served_later(broker, worker, name):
    """It waits already when its connection is blocked; its item comes with the credit."""
    frozen = broker.worker(item_bytes=10)
    patient = frozen.open(name, wait_ms=60_000)
    broker.wait_for_stat(f"queue_{name}_waiters", 1)
    worker.put(f"{name}-other", b"x" * 100, b"y" * 100, b"z" * 100)
    assert frozen.take(f"{name}-other")[1] == b"x" * 100
    for _ in range(2):
        frozen.open(f"{name}-other")  # the second one is deferred
    broker.wait_for_stat(f"queue_{name}-other_open_transactions", 2)
    worker.put(name, b"1", b"2")
    assert worker.take(name)[1] == b"1"
    frozen.send(frame(FrameKind.CREDIT, 0, messages.pack_credit(1 << 30, 0)))
    assert frozen.answer(patient)[1] == b"2"
    frozen.close()


def test_credit_comes_back_for_what_was_handled(worker, name):
    """The peer can send for ever, if it reads; one that exceeds it is not cut off, it only has no right to more."""
    data = b"x" * 60_000
    rounds = 2 * worker.greeting.item_bytes // len(data)
    for _ in range(rounds):
        assert worker.put(name, data) == [Code.OK]
    assert worker.credits[0] >= worker.greeting.item_bytes
    operations = 0
    while operations < worker.greeting.operation_bytes // 2:
        worker.send(*(frame(FrameKind.CANCEL, 10**6 + number) for number in range(5000)))
        operations += 5000 * HEAD.size
    assert worker.put(name, b"end") == [Code.OK]
    assert worker.credits[1] >= worker.greeting.operation_bytes // 4


@pytest.mark.parametrize(
    "data",
    [
        HEAD.pack(65535, FrameKind.PUT, 0, 1),
        frame(FrameKind.ITEM, 1, b"x"),
        frame(FrameKind.OPEN, 1, b"short"),
        frame(FrameKind.PUT, 1, b"\x01q\0\0\0\0\0\0\0\x09x"),
        frame(FrameKind.CONFIRM, 1, b"1234567"),
        frame(FrameKind.OPEN, 0, Opening(b"q").pack()),
        frame(FrameKind.GREETING, 0, b"again"),
    ],
)
def test_a_broken_frame_ends_the_connection_alone(broker, worker, other, name, data):
    """Its items go back; the log says why; others go on."""
    worker.put(name, b"x")
    worker.take(name)
    worker.send(data)
    assert worker.is_closed()
    broker.wait_for_log("a worker's connection is closed: ")
    assert other.take(name, wait_ms=5000)[1] == b"x"


def test_a_memcache_client_is_not_served(broker):
    """Its first bytes are no greeting."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(broker.socket)
        client.sendall(b"version\r\nversion\r\nversion\r\n")
        with contextlib.suppress(ConnectionResetError):
            while client.recv(100):
                pass
    broker.wait_for_log("a worker's connection is closed: ")


def test_without_a_common_version_the_broker_greets_and_closes(broker):
    """The worker reads the range, and can use memcache."""
    with contextlib.closing(broker.worker(lowest=7, highest=9)) as worker:
        assert (worker.greeting.lowest, worker.greeting.highest) == messages.VERSIONS
        assert worker.is_closed()
    broker.wait_for_log("versions 7 to 9")
    with contextlib.closing(broker.worker(lowest=1, highest=9)) as worker:
        assert worker.take("q") is Code.EMPTY


def test_frames_cut_anywhere_are_the_same(worker, name):
    """Byte by byte over the socket."""
    data = frame(FrameKind.PUT, 1, messages.pack_put(name.encode(), [(0, b"x")])) + frame(
        FrameKind.OPEN, 2, Opening(name.encode(), wait_ms=5000).pack()
    )
    for byte in data:
        worker.send(bytes((byte,)))
    assert worker.next(FrameKind.DONE, 1).payload == b""
    assert worker.next(FrameKind.ITEM, 2).payload == b"x"


def test_what_is_answered_survives_a_kill(tmp_path):
    """Puts and confirms are on disk before their answers."""
    broker = Rig(tmp_path / "data")
    with broker:
        worker = broker.worker()
        worker.put("q", *(b"%d" % number for number in range(100)))
        first = worker.open("q", items=50)
        for number in range(50):
            worker.next(FrameKind.ITEM, first + number)
        worker.confirm(*range(first, first + 20))
        broker.kill()
        worker.close()
        broker.start()
        with contextlib.closing(broker.worker()) as again:
            assert again.drain("q") == [b"%d" % number for number in range(20, 100)]


def test_a_stop_answers_what_is_under_way(tmp_path):
    """Waiting opens end empty, the last puts have their answer, and the connection closes."""
    with Rig(tmp_path / "data") as broker:
        worker = broker.worker()
        waiting = worker.open("q", wait_ms=60_000)
        put = worker.start_put("other", b"x" * 50_000)
        worker.next(FrameKind.DONE, put)
        broker.process.send_signal(signal.SIGTERM)
        assert worker.answer(waiting) is Code.EMPTY
        assert worker.is_closed()
        assert broker.process.wait(60) == 0
        worker.close()
        assert not Path(broker.socket).exists()


def test_a_backlog_larger_than_the_window_is_read_to_its_end(tmp_path):
    """An open that does not wait waits for the disk nevertheless; so does a peek."""
    with Rig(tmp_path / "data") as broker:
        with contextlib.closing(broker.worker()) as worker:
            for start in range(0, 2500, 500):
                worker.put("q", *(b"%d" % number for number in range(start, start + 500)))
        broker.stop()
        broker.start()
        with contextlib.closing(broker.worker()) as worker:
            peek = worker.id()
            worker.send(frame(FrameKind.PEEK, peek, b"q"))
            assert worker.next(FrameKind.PEEKED, peek).payload == b"0"
            found = []
            while len(found) < 2500:
                id_ = worker.open("q", items=100)
                for number in itertools.count():
                    item = worker.next(FrameKind.ITEM, id_ + number)
                    found.append(item.payload)
                    if item.flags & LAST:
                        break
            assert found == [b"%d" % number for number in range(2500)]
            assert worker.take("q") is Code.EMPTY
