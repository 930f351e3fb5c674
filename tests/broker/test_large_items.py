"""Large items are stored in parts: others do not wait, and nothing half is left. Real processes and files."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from gateway.broker.config import Config
from gateway.broker.queues.reads import ClientReads, OpenItem, ReadMode
from gateway.broker.storage.batch import SEQUENCE_BITS, Batch, LargeItem, StoredItem, Ticket
from gateway.broker.storage.checksum import seed
from gateway.broker.storage.database import Database
from gateway.broker.storage.inventory import highest_id, lowest_id
from gateway.broker.storage.large.data import LargeData
from gateway.broker.storage.large.format import LARGE_BYTES, PART_BYTES, PLACE_BITS, Reference, unpack
from gateway.broker.storage.reader import QueueRows, Window
from gateway.broker.storage.threads import Threads
from tests.broker import damaging
from tests.broker.damaging import check, copy, execute, fill, serve
from tests.broker.steps import Steps
from tests.broker.test_durability import _item, _ItemOwner, _mounted
from tests.lab.broker import BrokerProcess
from tests.lab.commands import run_process
from tests.lab.examples import examples, some
from tests.lab.memcache import MemcacheClient
from tests.lab.waiting import until

MIB = 1 << 20


@functools.lru_cache(16)
def large(number: int, size: int = LARGE_BYTES + 1) -> bytes:
    """Bytes that differ in every part."""
    return b"".join(b"%d at %d " % (number, at) + b"." * (PART_BYTES - 20) for at in range(0, size, PART_BYTES))[:size]


def parts(data: Path) -> int:
    """How many parts the file holds."""
    with contextlib.closing(sqlite3.connect(data / "broker.sqlite", isolation_level=None)) as connection:
        connection.execute("PRAGMA busy_timeout=5000")
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'parts'").fetchall():
            return 0
        return int(connection.execute("SELECT count(*) FROM parts").fetchone()[0])


def send(client: MemcacheClient, queue: str, data: bytes) -> None:
    """A set, whose answer is not awaited."""
    client.send(b"set %b 0 0 %d\r\n" % (queue.encode(), len(data)))
    client.send(data)
    client.send(b"\r\n")


def begin(broker: BrokerProcess, client: MemcacheClient, queue: str, data: bytes) -> None:
    """A set that the broker has read up to its end, which is still to be sent."""
    expected = broker.stat("bytes_read") + len(data)
    client.send(b"set %b 0 0 %d\r\n" % (queue.encode(), len(data)))
    client.send(data)
    until(lambda: broker.stat("bytes_read") >= expected, lambda: "it is not read")


@contextlib.contextmanager
def frozen(broker: BrokerProcess) -> Iterator[None]:
    """What several clients send in the block comes to the broker at once: it does not depend on the test's speed."""
    broker.freeze()
    try:
        yield
    finally:
        broker.thaw()


def sending(client: MemcacheClient, queue: str, data: bytes) -> threading.Thread:
    """A set from a thread, of a client whose broker may die."""

    def run() -> None:
        with contextlib.suppress(OSError):
            send(client, queue, data)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def take(steps: Steps, queue: bytes, reads: ClientReads) -> tuple[StoredItem, OpenItem]:
    """The next item, which is there."""
    found = steps.queues.get(queue).read(ReadMode.OPEN, reads)
    while found is None:
        assert steps.bring(), "the queue is empty"
        found = steps.queues.get(queue).read(ReadMode.OPEN, reads)
    assert found[1] is not None
    return found[0], found[1]


def put(steps: Steps, queue: bytes, data: bytes, expires_ms: int = 0) -> Ticket:
    accepted, ticket, _ = steps.queues.put(queue, data, expires_ms)
    assert accepted
    assert ticket is not None
    return ticket


# Others do not wait


def test_a_small_item_of_another_queue_waits_for_one_part(tmp_path: Path) -> None:
    """Puts and removals are committed between the parts."""
    steps = Steps(tmp_path)
    first = put(steps, b"small", b"1")
    steps.commit_all()
    big = put(steps, b"large", large(1))
    assert steps.commit()  # a part
    second = put(steps, b"small", b"2")
    _, read = take(steps, b"small", ClientReads(9))
    removal = read.queue.confirm(read)
    assert steps.commit()  # the part that was being written
    assert steps.commit()
    assert (first.done, second.done, removal is not None and removal.done, big.done) == (True, True, True, False)
    steps.commit_all()
    assert big.done
    assert big.error is None
    steps.close()


def test_a_small_set_is_answered_while_a_large_one_is_written(tmp_path: Path) -> None:
    """As clients see it, with a real disk."""
    with BrokerProcess(tmp_path / "data") as broker:
        slow, fast = broker.client(60), broker.client(60)
        data = large(1, 8 * MIB)
        begin(broker, slow, "large", data)
        with frozen(broker):
            slow.send(b"\r\n")
            fast.send(b"".join(b"set small 0 0 1\r\n%d\r\nget small\r\n" % number for number in range(3)))
            fast.send(b"get large\r\n")
        for number in range(3):
            assert fast.line() == b"STORED\r\n"
            assert fast.value() == b"%d" % number
        assert fast.value() is None, "it is complete already"
        assert slow.line() == b"STORED\r\n"
        assert fast.get("large") == data


def test_another_queue_is_read_between_the_parts(tmp_path: Path) -> None:
    """The thread that reads ahead serves others while a large item is read."""
    database = Database(tmp_path, fsync=False)
    steps_of: dict[str, list[Window]] = {"large": [], "small": []}
    order: list[str] = []

    class Owner:
        def __init__(self, name: str) -> None:
            self.name = name

        def loaded(self, _generation: int, window: Window) -> None:
            order.append(self.name)
            steps_of[self.name].append(window)

        def not_loaded(self, error: str) -> None:
            raise AssertionError(error)

    data = large(1, 8 * MIB)
    _write_large(database, 1, b"large", data)
    batch = Batch()
    batch.create(_ItemOwner(), 2, b"small")
    batch.put(_ItemOwner(), _item(b"small", lowest_id(2) + 1, b"x"))
    assert database.write(batch).puts is None

    async def run() -> None:
        threads = Threads(database, asyncio.get_running_loop())
        for number, name in ((1, "large"), (2, "small")):
            threads.read(
                Owner(name), QueueRows(number, seed(name.encode()), 0), 0, lowest_id(number), highest_id(number)
            )
        async with asyncio.timeout(60):
            while len(order) < 2:
                await asyncio.sleep(0.01)
        await threads.close()

    asyncio.run(run())
    assert order == ["small", "large"]
    assert steps_of["large"][0].items[0].data == data


def _write_large(database: Database, number: int, queue: bytes, data: bytes) -> None:
    written = LargeData(data)
    while not written.complete:
        assert database.write_part(written).error is None
    batch = Batch()
    batch.create(_ItemOwner(), number, queue)
    item = LargeItem(lowest_id(number) + 1, 1, 0, data, seed=seed(queue), reference=written.reference)
    batch.put(_ItemOwner(), item)
    assert database.write(batch).puts is None


# Order


def test_items_of_one_queue_keep_their_order(tmp_path: Path) -> None:
    """Large and small ones, from one client that does not wait, and from another one behind it."""
    jobs = [b"1", large(2), b"3", b"4", large(5, 6 * MIB), b"6"]
    with BrokerProcess(tmp_path / "data", "--fsync", "off") as broker:
        client, other = broker.client(60), broker.client(60)
        for job in jobs:
            send(client, "q", job)
        assert all(client.line() == b"STORED\r\n" for _ in jobs)
        assert [other.get("q/open") for _ in jobs[:3]] == jobs[:3]
        broker.kill()
    with BrokerProcess(tmp_path / "data", "--fsync", "off") as broker:
        client = broker.client(60)
        assert [client.get("q") for _ in range(len(jobs) + 1)] == [*jobs, None]
        assert broker.stop() == 0


def test_a_put_behind_a_large_one_is_answered_after_it(tmp_path: Path) -> None:
    """Also one to a fanout child of its queue, and the other way round; other queues go on."""
    steps = Steps(tmp_path)
    steps.queues.get(b"q+child")
    behind = [(b"q", b"2"), (b"q+child", b"3"), (b"q", b"4"), (b"q", large(5)), (b"q", b"6")]
    tickets = [put(steps, b"q", large(1)), *(put(steps, queue, data) for queue, data in behind)]
    while not tickets[0].done:
        assert not any(ticket.done for ticket in tickets)
        assert steps.commit()
    steps.commit_all()
    assert all(ticket.done and ticket.error is None for ticket in tickets)
    reads = ClientReads(9)
    jobs = [large(1), b"2", b"3", b"4", large(5), b"6"]
    assert [take(steps, b"q+child", reads)[0].data for _ in jobs] == jobs
    jobs.remove(b"3")
    assert [take(steps, b"q", reads)[0].data for _ in jobs] == jobs
    assert steps.queues.get(b"q").pending == steps.queues.get(b"q+child").pending == 0
    steps.close()


def test_two_large_items_follow_each_other(tmp_path: Path) -> None:
    """The second is written after the first, and both are stored."""
    steps = Steps(tmp_path)
    tickets = [put(steps, b"a", large(1)), put(steps, b"b", large(2))]
    while not tickets[1].done:
        assert tickets[0].done or not tickets[1].done
        assert steps.commit()
    assert tickets[0].done
    assert [take(steps, name, ClientReads(9))[0].data for name in (b"a", b"b")] == [large(1), large(2)]
    steps.close()


def test_a_client_sees_its_own_large_item(tmp_path: Path) -> None:
    """A get waits for every set of its connection, also if a later set to another queue is stored before."""
    with BrokerProcess(tmp_path / "data", "--fsync", "off") as broker:
        client, other = broker.client(60), broker.client(60)
        data = large(1, 24 * MIB)
        begin(broker, client, "large", data)
        other.send(b"get small/t=60000\r\n")
        client.send(b"\r\nset small 0 0 1\r\nx\r\n")
        assert other.value() == b"x"
        client.send(b"get large\r\n")
        assert other.get("large/peek") is None, "it is complete already"
        assert [client.line(), client.line()] == [b"STORED\r\n", b"STORED\r\n"]
        assert client.value() == data


def test_many_waiting_bytes_hold_back_large_items_only(tmp_path: Path) -> None:
    """Above the limit of waiting bytes another large item waits before it is accepted; small ones are stored."""
    with BrokerProcess(tmp_path / "data", "--fsync", "off") as broker:
        clients = [broker.client(60) for _ in range(3)]
        jobs = [bytes(63 * MIB), large(1), large(2)]  # the limit is 64 MiB
        for number, job in enumerate(jobs):
            begin(broker, clients[number], f"q{number}", job)
        small = broker.client(60)
        with frozen(broker):
            for client in clients:
                client.send(b"\r\n")
            small.send(b"set small 0 0 1\r\nx\r\nget small\r\nstats\r\n")
        assert small.line() == b"STORED\r\n"
        assert small.value() == b"x"
        assert b"STAT cmd_set 3\r\n" in small.read_until(b"END\r\n"), "not one waits"
        assert small.ask(b"delete q0\r\n") == b"DELETED\r\n"  # instead of writing all of it
        assert [client.line() for client in clients] == [b"STORED\r\n"] * 3
        assert [small.get(f"q{number}") for number in (1, 2)] == jobs[1:]


# Ends in the middle


@pytest.mark.parametrize("fsync", some(["always", "off"]))  # a kill does not show the difference
def test_killed_while_a_large_item_is_written(tmp_path: Path, fsync: str) -> None:
    """It was not answered and is gone, its parts too; what was answered before is there."""
    data = tmp_path / "data"
    with BrokerProcess(data, "--fsync", fsync) as broker:
        assert broker.client().put("q", b"before") == b"STORED\r\n"
        thread = sending(broker.client(60), "q", large(1, 24 * MIB))
        until(lambda: parts(data) > 3, lambda: "no part is written", within_s=60)
        assert broker.client().put("other", b"between") == b"STORED\r\n"
        broker.kill()
        thread.join()
    left = parts(data)
    assert 0 < left < 48
    with BrokerProcess(data, "--fsync", fsync) as broker:
        client = broker.client(60)
        assert [client.get("q"), client.get("q"), client.get("other")] == [b"before", None, b"between"]
        until(lambda: not parts(data), lambda: f"{parts(data)} parts are left", within_s=60)
        assert client.put("q", large(2)) == b"STORED\r\n"
        assert broker.stop() == 0
    code, said = check(data)
    assert (code, "sound: 2 queues, 1 job" in said) == (0, True), said
    assert serve(data, ["q"]).delivered == {"q": [large(2)]}


def test_killed_while_a_large_item_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was confirmed, so it does not come back, and the next broker deletes the rest of its parts."""
    data = tmp_path / "data"
    monkeypatch.setattr("gateway.broker.storage.large.data.PART_BYTES", 8192)  # hundreds, deleted two by two
    database = Database(data, fsync=False)
    _write_large(database, 1, b"q", large(1))
    database.close()
    with BrokerProcess(data) as broker:
        client = broker.client(60)
        assert client.put("q", b"after") == b"STORED\r\n"
        assert client.get("q/open") == large(1)
        assert client.ask(b"confirm q 1\r\n") == b"END\r\n"
        broker.kill()
    left = parts(data)
    assert left, "they were deleted before the answer"
    with BrokerProcess(data) as broker:
        until(lambda: not parts(data), lambda: f"{parts(data)} parts are left", within_s=60)
        client = broker.client(60)
        assert [client.get("q"), client.get("q")] == [b"after", None]
        assert broker.stop() == 0
    assert check(data)[0] == 0


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, kills: int) -> None:
    """Of items of 3 MiB and small ones: what was stored and not confirmed is there, once and whole."""
    data = tmp_path / "data"
    stored: list[bytes] = []
    asked: set[bytes] = set()
    confirmed: set[bytes] = set()
    numbers = iter(range(100_000))

    def produce(broker: BrokerProcess) -> None:
        with contextlib.suppress(OSError, EOFError):
            client = broker.client(60)
            while True:
                number = next(numbers)
                job = large(number, 3 * MIB) if number % 4 == 0 else b"%d" % number
                if client.put("q", job) == b"STORED\r\n":
                    stored.append(job)

    def consume(broker: BrokerProcess) -> None:
        with contextlib.suppress(OSError, EOFError):
            client = broker.client(60)
            while True:
                if (job := client.get("q/open/t=100")) is not None:
                    asked.add(job)
                    assert client.ask(b"confirm q 1\r\n") == b"END\r\n"
                    confirmed.add(job)

    for kill in range(kills):
        with BrokerProcess(data, "--fsync", "off") as broker:
            enough = len(stored) + 5 + kill
            threads = [threading.Thread(target=work, args=(broker,)) for work in (produce, consume)]
            for thread in threads:
                thread.start()
            until(partial(_is_above, stored, enough), lambda: "nothing is stored", within_s=60)
            broker.kill()
            for thread in threads:
                thread.join()
    with BrokerProcess(data, "--fsync", "off") as broker:
        client = broker.client(60)
        left = Counter(iter(lambda: client.get("q"), None))
        assert broker.stop() == 0
    assert max(left.values(), default=1) == 1
    assert not confirmed & set(left)
    assert set(stored) - asked <= set(left)
    assert check(data)[0] == 0
    assert damaging.rows(data, "PRAGMA user_version") == [(2,)], "parts are left"


def _is_above(jobs: list[bytes], count: int) -> bool:
    return len(jobs) > count


def test_a_disk_that_fills_up_in_the_middle(tmp_path: Path) -> None:
    """That item is refused as ever, its parts make room again, and small items and removals go on."""
    with _mounted(tmp_path / "disk", "size=36m"):
        data = tmp_path / "disk" / "data"
        with BrokerProcess(data, env={"SQLITE_TMPDIR": str(tmp_path)}) as broker:
            client = broker.client(60)
            for number in range(3):
                assert client.put("q", b"%d" % number) == b"STORED\r\n"
            refused = broker.client(60)
            send(refused, "q", large(1, 32 * MIB))
            assert refused.line().startswith(b"SERVER_ERROR cannot write")
            assert client.get("q/open") == b"0"
            assert client.ask(b"confirm q 1\r\n") == b"END\r\n"
            broker.wait_for_log("the broker accepts writes again")
            until(lambda: not parts(data), lambda: f"{parts(data)} parts are left", within_s=60)
            assert client.put("q", b"again") == b"STORED\r\n"
            assert client.put("q", large(2)) == b"STORED\r\n"
            assert [client.get("q") for _ in range(5)] == [b"1", b"2", b"again", large(2), None]
            assert broker.stop() == 0
        assert check(data)[0] == 0


def test_a_file_that_may_not_grow_in_the_middle(tmp_path: Path) -> None:
    """The same without a file system of its own."""
    data = tmp_path / "data"
    with BrokerProcess(data) as broker:
        client = broker.client(60)
        assert client.put("q", b"before") == b"STORED\r\n"
        pid = broker.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (6 << 20, hard))
        refused = broker.client(60)
        send(refused, "q", large(1, 10 * MIB))
        assert refused.line().startswith(b"SERVER_ERROR cannot write")
        assert client.get("q/peek") == b"before"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        broker.wait_for_log("the broker accepts writes again")
        until(lambda: not parts(data), lambda: f"{parts(data)} parts are left", within_s=60)
        assert client.put("q", b"again") == b"STORED\r\n"
        assert [client.get("q") for _ in range(3)] == [b"before", b"again", None]


@pytest.mark.parametrize("failing", [0, 2, 5])
def test_a_part_or_the_last_commit_fails(tmp_path: Path, failing: int) -> None:
    """The put gets the error, those behind it go on, no part is left, and nothing is counted."""
    steps = Steps(tmp_path)
    bad, behind = put(steps, b"q", large(1, 5 * PART_BYTES)), put(steps, b"q", b"2")
    for _ in range(failing):
        assert steps.commit()
    assert not bad.done
    assert steps.fail(removals_too=True)
    assert (bad.done, bad.error) == (True, "disk full")
    steps.commit_all()
    queue = steps.queues.get(b"q")
    assert behind.done
    expected = [] if failing == 5 else [b"2"]  # the last commit has both
    assert (queue.pending, queue.pending_bytes, queue.backlog.items) == (0, 0, len(expected))
    assert [take(steps, b"q", ClientReads(9))[0].data for _ in expected] == expected
    assert parts(tmp_path) == 0
    steps.close()


# Flush, delete, move


def test_flush_and_delete_remove_the_parts(tmp_path: Path) -> None:
    """An open read survives a flush with its parts, also a restart; the sizes are those of the items."""
    data = tmp_path / "data"
    jobs = [large(number) for number in range(3)]
    with BrokerProcess(data, "--fsync", "off") as broker:
        client = broker.client(60)
        for queue, count in {"q": 3, "gone": 2, "kept": 1}.items():
            for job in jobs[:count]:
                assert client.put(queue, job) == b"STORED\r\n"
        assert client.stats()["queue_q_bytes"] == str(sum(map(len, jobs)))
        assert client.get("q/open") == jobs[0]
        assert client.ask(b"flush q\r\n") == b"END\r\n"
        assert client.ask(b"delete gone\r\n") == b"DELETED\r\n"
        each = -(-len(jobs[0]) // PART_BYTES)
        until(lambda: parts(data) == 2 * each, lambda: f"{parts(data)} parts are left", within_s=60)
        assert broker.stop() == 0
    code, said = check(data)
    assert (code, "sound: 2 queues, 2 jobs" in said) == (0, True), said
    assert damaging.rows(data, "SELECT items, bytes FROM queues ORDER BY number") == [(1, len(jobs[0]))] * 2
    assert serve(data, ["q", "kept"]).delivered == {"q": jobs[:1], "kept": jobs[:1]}
    assert damaging.rows(data, "PRAGMA user_version") == [(2,)]


def test_a_queue_that_is_deleted_while_its_item_is_written(tmp_path: Path) -> None:
    """The item goes with the queue: no row and no part is left, and a new queue of that name has its own items."""
    steps = Steps(tmp_path)
    ticket = put(steps, b"q", large(1))
    assert steps.commit()
    assert steps.commit()
    steps.queues.delete(b"q")
    put(steps, b"q", b"new")
    steps.commit_all()
    assert (ticket.done, ticket.error) == (True, None)
    assert take(steps, b"q", ClientReads(9))[0].data == b"new"
    assert parts(tmp_path) == 0
    assert damaging.rows(tmp_path, "SELECT count(*) FROM items") == [(1,)]
    steps.close()


def test_an_expired_large_item_moves_without_its_parts(tmp_path: Path) -> None:
    """Its row changes and its parts stay; it can be read after a restart."""
    steps = Steps(tmp_path, Config(queues={b"q": {"expire_to_queue": "late"}}))
    put(steps, b"q", large(1), 1)
    steps.commit_all()
    before = damaging.rows(tmp_path, "SELECT id FROM parts")
    queue = steps.queues.get(b"q")
    while queue.head() is None and steps.bring():
        pass
    steps.commit_all()
    assert damaging.rows(tmp_path, "SELECT id FROM parts") == before
    steps.crash()
    item, read = take(steps, b"late", ClientReads(9))
    assert item.data == large(1)
    read.queue.confirm(read)
    steps.commit_all()
    assert parts(tmp_path) == 0
    steps.close()


# The format


def test_the_format_is_that_of_the_items(tmp_path: Path) -> None:
    """3 as soon as there is a large item, 2 again when the broker stops without one."""
    data = tmp_path / "data"
    fill(data, {"q": [b"x" * LARGE_BYTES]})
    assert damaging.rows(data, "PRAGMA user_version") == [(2,)]
    whole = damaging.rows(data, "SELECT name, sql FROM sqlite_schema")
    fill(data, {"q": [b"x" * (LARGE_BYTES + 1)]})
    assert damaging.rows(data, "PRAGMA user_version") == [(3,)]
    assert serve(data, ["q"]).delivered == {"q": [b"x" * LARGE_BYTES, b"x" * (LARGE_BYTES + 1)]}
    assert damaging.rows(data, "PRAGMA user_version") == [(2,)]
    assert damaging.rows(data, "SELECT name, sql FROM sqlite_schema") == whole


def test_large_items_that_were_stored_whole(tmp_path: Path) -> None:
    """Rows of an earlier version are delivered, flushed and counted as ever."""
    database = Database(tmp_path, fsync=False)
    batch = Batch()
    batch.create(_ItemOwner(), 1, b"q")
    for place in (1, 2):
        batch.put(_ItemOwner(), _item(b"q", lowest_id(1) + place, large(place)))
    assert database.write(batch).puts is None
    database.close()
    fill(tmp_path, {"q": [large(3)]})
    assert check(tmp_path)[0] == 0
    kept = copy(tmp_path, tmp_path / "copy")
    assert serve(kept, ["q"]).delivered == {"q": [large(1), large(2), large(3)]}
    with BrokerProcess(tmp_path, "--fsync", "off") as broker:
        assert broker.ask("flush q") == "END"
        assert broker.stat("queue_q_bytes") == 0
        assert broker.stop() == 0
    assert damaging.rows(tmp_path, "SELECT items, bytes FROM queues") == [(0, 0)]
    assert damaging.rows(tmp_path, "PRAGMA user_version") == [(2,)]


def test_a_reference_is_read_as_it_was_written() -> None:
    """And any change of it is noticed."""
    reference = Reference(7, 5 << 20, 12345)
    packed = reference.pack()
    assert unpack(packed) == reference
    for at in range(len(packed)):
        for bit in range(8):
            changed = bytearray(packed)
            changed[at] ^= 1 << bit
            assert unpack(bytes(changed)) is None
    for wrong in (b"", packed[1:], packed + b"0", 7, None, "7"):
        assert unpack(wrong) is None


# Damage

JOBS = {"q": [b"1", large(1), b"3", large(2)], "other": [b"a", large(3)]}
SECOND = (1 << SEQUENCE_BITS) + 2
FIRST_PART = 1 << PLACE_BITS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that a stopped broker has left, with JOBS."""
    data = tmp_path_factory.mktemp("whole") / "data"
    fill(data, JOBS)
    return data


OTHER = 11
"""The number of a queue that stays whole, and of the parts of its large item."""
DAMAGES = {
    "a bit of a part": (
        "UPDATE parts SET data = CAST('!' || substr(data, 2) AS BLOB) WHERE id = {part} + 2",
        "its checksum fails",
    ),
    "a part is missing": ("DELETE FROM parts WHERE id = {part} + 1", "a part of it is missing or damaged"),
    "the first part is missing": ("DELETE FROM parts WHERE id = {part}", "a part of it is missing or damaged"),
    "a part is short": ("UPDATE parts SET data = substr(data, 2) WHERE id = {part} + 1", ""),
    "a part is a number": ("UPDATE parts SET data = 7 WHERE id = {part}", "a part of it is missing or damaged"),
    "parts in another order": (
        "UPDATE parts SET data = (SELECT data FROM parts AS p WHERE p.id = {part}) WHERE id = {part} + 1",
        "its checksum fails",
    ),
    "the reference": ("UPDATE items SET data = '1' || substr(data, 2) WHERE id = {item}", "its fields are damaged"),
    "another reference": (
        "UPDATE items SET data = (SELECT data FROM items AS i WHERE i.id = {other}) WHERE id = {item}",
        "its fields are damaged",
    ),
    "the expiry": ("UPDATE items SET expires_ms = 1 WHERE id = {item}", "its fields are damaged"),
    "the reference as bytes": ("UPDATE items SET data = CAST(data AS BLOB) WHERE id = {item}", "its checksum fails"),
}
"""Each is done to the second item of a queue of its own, a large one."""


def test_damage_of_a_large_item(tmp_path: Path) -> None:
    """`check` says what is damaged, the item is not delivered, all others are, and the repair keeps those."""
    assert len(DAMAGES) == OTHER - 1
    queues = {f"q{number}": what for number, what in enumerate(DAMAGES, 1)}
    jobs = {name: [b"1", large(number), b"3"] for number, name in enumerate(queues, 1)}
    jobs["other"] = [b"a", large(OTHER)]
    data = tmp_path / "data"
    fill(data, jobs)
    for number, (statement, _) in enumerate(DAMAGES.values(), 1):
        part, item, other = number << PLACE_BITS, lowest_id(number) + 2, lowest_id(OTHER) + 2
        execute(data, statement.format(part=part, item=item, other=other))
    sound = {name: [b"1", b"3"] for name in queues} | {"other": jobs["other"]}
    code, said = check(data)
    assert (code, f"{len(DAMAGES)} jobs or ranges of jobs cannot be delivered" in said) == (1, True), said
    found = serve(copy(data, tmp_path / "served"), [*jobs])
    assert found.delivered == sound
    for name, what in queues.items():
        assert f"\n{name}: place 2: {DAMAGES[what][1]}" in said, (what, said)
        reported = f"queue b'{name}': a job is damaged and is not delivered: place 2: "
        assert any(reported in line for line in found.errors), what
    assert check(data, "--repair")[0] == 0
    assert check(data)[0] == 0
    assert serve(data, [*jobs]).delivered == sound


EXTRA = {
    "INSERT INTO parts VALUES (77 << 16, x'00')": "there are parts of a large job that no queue holds (number 77)",
    f"INSERT INTO parts VALUES ({FIRST_PART + 99}, x'00')": "there are parts beyond the end of a large job (number 1)",
    "INSERT INTO unfinished VALUES (1, 12345)": "1 row of parts to remove is damaged",
}


def test_what_belongs_to_no_item(whole: Path, tmp_path: Path) -> None:
    """`check` tells it, every item is delivered, and the repair leaves it out."""
    data = copy(whole, tmp_path / "data")
    execute(data, *EXTRA)
    code, said = check(data)
    assert code == 1
    assert all(reported in said for reported in EXTRA.values()), said
    assert serve(copy(data, tmp_path / "served"), [*JOBS]).delivered == JOBS
    assert check(data, "--repair")[0] == 0
    assert check(data)[0] == 0
    assert serve(data, [*JOBS]).delivered == JOBS


def test_the_parts_of_a_damaged_item_stay(whole: Path, tmp_path: Path) -> None:
    """A flush does not follow a damaged reference to the parts of another item."""
    data = copy(whole, tmp_path / "data")
    execute(data, f"UPDATE items SET data = '0000000003' || substr(data, 11) WHERE id = {SECOND}")
    with BrokerProcess(data, "--fsync", "off") as broker:
        assert broker.ask("flush q") == "END"
        client = broker.client(60)
        assert [client.get("other"), client.get("other")] == JOBS["other"]
        assert broker.stop() == 0
    assert "parts of a large job that no queue holds (number 1)" in check(data)[1]


def test_a_number_that_is_used_already(tmp_path: Path) -> None:
    """Parts that the broker does not expect are not overwritten: that item is refused alone."""
    steps = Steps(tmp_path)
    first = put(steps, b"q", large(1))
    steps.commit_all()
    execute(tmp_path, "INSERT INTO parts VALUES (2 << 16, x'00')")
    second, third = put(steps, b"q", large(2)), put(steps, b"q", b"3")
    steps.commit_all()
    assert (first.error, second.error, list(second.refused), third.error) == (None, None, [1], None)
    assert steps.committer.trouble is None
    assert [take(steps, b"q", ClientReads(9))[0].data for _ in range(2)] == [large(1), b"3"]
    steps.close()


def test_parts_of_an_item_are_never_deleted(tmp_path: Path) -> None:
    """Only those are whose number is marked: a deletion that comes too late or too early does nothing."""
    database = Database(tmp_path, fsync=False)
    assert database.delete_parts(1).finished
    _write_large(database, 1, b"q", large(1))
    before = parts(tmp_path)
    assert database.delete_parts(1).finished
    assert parts(tmp_path) == before > 0
    database.close()


def test_a_start_takes_numbers_above_all_parts(tmp_path: Path) -> None:
    """No number is used twice, also after a restart."""
    steps = Steps(tmp_path)
    for number in range(2):
        put(steps, b"q", large(number))
    steps.commit_all()
    steps.crash()
    put(steps, b"q", large(3))
    steps.commit_all()
    assert damaging.rows(tmp_path, "SELECT DISTINCT id >> 16 FROM parts") == [(1,), (2,), (3,)]
    steps.close()


def test_memory_of_a_large_item_is_given_back(tmp_path: Path) -> None:
    """Items of 3 MiB, one after the other, leave less than six of them behind."""
    with BrokerProcess(tmp_path / "data", "--fsync", "off") as broker:
        client = broker.client(60)
        before = broker.rss_bytes()
        for number in range(examples(20, fewest=10)):
            data = large(number, 3 * MIB)
            assert client.put("q", data) == b"STORED\r\n"
            assert client.get("q") == data
        assert broker.rss_bytes() < before + 18 * MIB


def test_sqlite_can_compact_a_file_with_parts(whole: Path, tmp_path: Path) -> None:
    """`broker compact` keeps every item."""
    data = copy(whole, tmp_path / "data")
    ended = run_process([*damaging.COMMAND, "compact", str(data)])
    assert ended.returncode == 0, ended.stderr
    assert serve(data, [*JOBS]).delivered == JOBS
