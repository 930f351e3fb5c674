"""What is on disk: killed brokers, full disks, damaged files, two brokers, large backlogs. Real processes and files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.broker.storage import checksum
from gateway.broker.storage.batch import Batch, StoredItem
from gateway.broker.storage.batch_writer import PURGE_ROWS
from gateway.broker.storage.database import Database
from gateway.broker.storage.inventory import StoredQueue, lowest_id
from gateway.broker.storage.reader import DatabaseError
from tests.lab.broker import BrokerProcess
from tests.lab.commands import run_process
from tests.lab.examples import examples, some

ROUNDS = int(os.environ.get("KESTREL_GATEWAY_TEST_KILL_ROUNDS", "3"))


@pytest.mark.parametrize("fsync", some(["off", "always"]))  # a kill does not show the difference
def test_kill_9_loses_and_repeats_nothing(tmp_path: Path, fsync: str) -> None:
    """Killed at random moments: nothing that was answered STORED is missing, nothing confirmed comes back."""
    data = tmp_path / "data"
    stored: set[bytes] = set()
    confirmed: set[bytes] = set()
    asked: set[bytes] = set()
    chance = random.Random(fsync)
    for number in range(ROUNDS):
        with BrokerProcess(data, "--fsync", fsync) as broker:
            workers = [
                threading.Thread(target=_produce, args=(broker, b"%d-%d" % (number, worker), stored))
                for worker in range(3)
            ] + [threading.Thread(target=_consume, args=(broker, confirmed, asked)) for _ in range(2)]
            for worker in workers:
                worker.start()
            time.sleep(chance.uniform(0.05, examples(40, fewest=20) / 100))
            broker.kill()
            for worker in workers:
                worker.join()
    with BrokerProcess(data, "--fsync", fsync) as broker:
        items = [*broker.client().take_all("q")]
    left = set(items)
    assert len(left) == len(items), "one item came twice"
    assert len(stored) > 20
    assert confirmed
    assert not (confirmed & left), "a confirmed item came back"
    assert stored - confirmed - asked <= left, "a stored item is missing"


def _produce(broker: BrokerProcess, name: bytes, stored: set[bytes]) -> None:
    with contextlib.suppress(OSError, EOFError):
        client = broker.client()
        for i in range(100_000):
            if client.put("q", b"%b-%d" % (name, i)) == b"STORED\r\n":
                stored.add(b"%b-%d" % (name, i))


def _consume(broker: BrokerProcess, confirmed: set[bytes], asked: set[bytes]) -> None:
    """`asked`: confirms whose outcome is unknown, because their answer did not come."""
    with contextlib.suppress(OSError, EOFError):
        client = broker.client()
        while True:
            item = client.get("q/open/t=100")
            if item is not None:
                asked.add(item)
                assert client.ask(b"confirm q 1\r\n") == b"END\r\n"
                confirmed.add(item)
                asked.discard(item)


def test_open_reads_are_back_in_place_after_a_kill(tmp_path: Path) -> None:
    """Open reads are only in memory: after kill -9 each item is where it was."""
    with BrokerProcess(tmp_path / "data") as broker:
        client = broker.client()
        for data in (b"1", b"2", b"3"):
            client.put("q", data)
        assert [client.get("q/open") for _ in range(2)] == [b"1", b"2"]
        assert client.ask(b"confirm q 1\r\n") == b"END\r\n"
        broker.kill()
    with BrokerProcess(tmp_path / "data") as broker:
        client = broker.client()
        assert client.stats()["queue_q_items"] == "2"
        assert [client.get("q") for _ in range(3)] == [b"2", b"3", None]


def test_second_broker_is_refused(tmp_path: Path) -> None:
    """Another broker on the same directory does not start, and says why in one line."""
    with BrokerProcess(tmp_path / "data"):
        found = _start_and_fail(tmp_path / "data")
    assert found == f"kestrel-gateway broker: data directory {tmp_path / 'data'}: in use by another broker\n"


def test_a_broker_that_is_being_killed_is_waited_for(tmp_path: Path) -> None:
    """The next one starts in the moment of a `kill -9`, while the lock is still held, and serves."""
    data = tmp_path / "data"
    BrokerProcess(data).close()
    with (data / "broker.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        release = threading.Timer(0.3, fcntl.flock, (held, fcntl.LOCK_UN))
        release.start()
        with BrokerProcess(data) as broker:
            broker.client().put("q", b"1")
        release.join()


def _start_and_fail(data: Path, *flags: str, code: int = 1) -> str:
    arguments = [sys.executable, "-m", "gateway.broker", "--listen", "127.0.0.1:0", "--data", str(data), *flags]
    found = run_process(arguments)
    assert found.returncode == code, found.stderr
    return found.stderr


@pytest.mark.parametrize(
    "damage", [b"this is no database, and never was. " * 40, b"SQLite format 3\x00" + b"\xff" * 4096]
)
def test_a_damaged_file_is_left_as_it_is(tmp_path: Path, damage: bytes) -> None:
    """A file that is no database is left as it is, and one line says so."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "broker.sqlite").write_bytes(damage)
    found = _start_and_fail(data)
    assert found.startswith(f"kestrel-gateway broker: {data}/broker.sqlite: ")
    assert found.count("\n") == 1
    assert (data / "broker.sqlite").read_bytes() == damage


def test_a_foreign_database_is_not_touched(tmp_path: Path) -> None:
    """Somebody else's SQLite file is not touched."""
    data = tmp_path / "data"
    data.mkdir()
    with contextlib.closing(sqlite3.connect(data / "broker.sqlite")) as connection:
        connection.execute("CREATE TABLE precious (thing)")
        connection.commit()
    before = (data / "broker.sqlite").read_bytes()
    assert "is not a file of the broker" in _start_and_fail(data)
    assert (data / "broker.sqlite").read_bytes() == before


def _killed_with(data: Path, count: int) -> Path:
    """Leaves a killed broker's files, whose log holds `count` commits; returns the log."""
    with BrokerProcess(data) as broker:
        client = broker.client()
        for i in range(count):
            assert client.put("q", b"%d" % i) == b"STORED\r\n"
        broker.kill()
    return data / "broker.sqlite-wal"


@pytest.mark.parametrize("lost", ["emptied", "removed"])
def test_log_that_has_lost_its_database(tmp_path: Path, lost: str) -> None:
    """SQLite would discard the log and begin a new one: refused in one line, and the log stays unchanged."""
    log = _killed_with(tmp_path / "data", 5)
    before = log.read_bytes()
    database = tmp_path / "data" / "broker.sqlite"
    if lost == "emptied":
        database.write_bytes(b"")
    else:
        database.unlink()
    found = _start_and_fail(tmp_path / "data")
    assert (
        "broker.sqlite: is empty or missing, but its log (broker.sqlite-wal) contains jobs; restore the file" in found
    )
    assert found.count("\n") == 1
    assert log.read_bytes() == before


def test_empty_file_alone_is_a_new_database(tmp_path: Path) -> None:
    """That is what a broker leaves that was killed in the first moment of its first start."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broker.sqlite").write_bytes(b"")
    with BrokerProcess(tmp_path / "data") as broker:
        assert broker.client().put("q", b"x") == b"STORED\r\n"


@pytest.mark.parametrize("where", ["header", "middle"])
def test_damaged_log_is_told(tmp_path: Path, where: str) -> None:
    """Commits that SQLite drops behind a damaged frame are an error in the log at the next start."""
    log = _killed_with(tmp_path / "data", 20)
    content = bytearray(log.read_bytes())
    at = 20 if where == "header" else 32 + (len(content) - 32) // 2
    content[at] ^= 0xFF
    log.write_bytes(content)
    with BrokerProcess(tmp_path / "data") as broker:
        assert any(" ERROR " in line and "broker.sqlite-wal is damaged: " in line for line in broker.log), broker.log


def test_sound_and_torn_logs_are_no_damage(tmp_path: Path) -> None:
    """After kill -9, also in the middle of a write, what was answered is there and nothing is complained of."""
    log = _killed_with(tmp_path / "data", 20)
    content = log.read_bytes()
    log.write_bytes(content + content[32 : 32 + 24 + 1000])
    with BrokerProcess(tmp_path / "data") as broker:
        assert not any(" ERROR " in line for line in broker.log)
        assert broker.stat("curr_items") == 20
        broker.kill()
    log.write_bytes(log.read_bytes()[:-100])  # the last commit was being written: it was not answered
    with BrokerProcess(tmp_path / "data") as broker:
        assert not any(" ERROR " in line for line in broker.log)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_somebody_reads_the_file_of_a_running_broker(tmp_path: Path, end: str) -> None:
    """The sqlite3 shell beside a broker that was started again: it is not the last user, and leaves the log alone."""
    data = tmp_path / "data"
    with BrokerProcess(data) as broker:
        assert broker.client().put("q", b"0") == b"STORED\r\n"
        if end == "stop":
            assert broker.stop() == 0
        else:
            broker.kill()
    with BrokerProcess(data) as broker:
        client = broker.client()
        for number in range(1, 4):
            program = f"import sqlite3; c = sqlite3.connect({str(data / 'broker.sqlite')!r}); "
            program += "print(c.execute('SELECT count(*) FROM items').fetchall()); c.close()"
            assert run_process([sys.executable, "-I", "-S", "-c", program]).stdout == f"[({number},)]\n"
            assert client.put("q", b"%d" % number) == b"STORED\r\n"
        broker.kill()
    with BrokerProcess(data) as broker:
        client = broker.client()
        assert [client.get("q") for _ in range(5)] == [b"0", b"1", b"2", b"3", None]


def test_directory_that_cannot_be(tmp_path: Path) -> None:
    """A data directory below a file: one line, exit code 1."""
    (tmp_path / "file").write_text("")
    found = _start_and_fail(tmp_path / "file" / "data")
    assert found.startswith("kestrel-gateway broker: data directory ")
    assert found.count("\n") == 1


@contextlib.contextmanager
def _mounted(path: Path, options: str) -> Iterator[None]:
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True).returncode:
        pytest.skip("no right to mount a file system of its own")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_read_only_directory_is_one_line(tmp_path: Path) -> None:
    """A directory on a read-only file system: one line, exit code 1."""
    with _mounted(tmp_path / "disk", "size=4m"):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        found = _start_and_fail(tmp_path / "disk" / "data")
    assert found.startswith("kestrel-gateway broker: ")
    assert found.count("\n") == 1


def test_a_full_disk_makes_it_read_only(tmp_path: Path) -> None:
    """Full: SERVER_ERROR and READONLY, reads and acks go on; with room it writes again; nothing STORED is lost."""
    with _mounted(tmp_path / "disk", "size=16m"), BrokerProcess(tmp_path / "disk" / "data") as broker:
        stored = _fill(broker)
        client = broker.client()
        assert client.ask(b"status\r\n") == b"READONLY\r\n"
        broker.wait_for_log(r"the broker is read-only: cannot write: .*full")
        assert client.get("q/open") == stored[0]
        assert client.get("q/peek") == stored[1]
        assert client.ask(b"confirm q 1\r\n") == b"END\r\n"
        assert client.get("q") == stored[1]
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path / "disk")], check=True)
        broker.wait_for_log("the broker accepts writes again")
        assert client.ask(b"status\r\n") == b"UP\r\n"
        assert client.put("q", b"again") == b"STORED\r\n"
        broker.kill()
        with BrokerProcess(tmp_path / "disk" / "data") as after:
            assert [*after.client().take_all("q")] == [*stored[2:], b"again"]


def _fill(broker: BrokerProcess) -> list[bytes]:
    """Sets until the broker refuses; what it said to be stored."""
    stored = []
    client = broker.client()
    for i in range(700):
        body = b"%06d" % i + b"x" * 60_000
        answer = client.put("q", body)
        if answer != b"STORED\r\n":
            assert answer.startswith(b"SERVER_ERROR cannot write")
            assert client.read_all() == b""
            assert stored
            return stored
        stored.append(body)
    raise AssertionError("the disk did not fill up")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_restart_on_a_full_disk(tmp_path: Path, end: str) -> None:
    """Stopped or killed when full, and the rest of the disk taken by another process: it starts, says READONLY, and
    serves reads and acks; nothing STORED is lost."""
    disk = tmp_path / "disk"
    with _mounted(disk, "size=16m"):
        with BrokerProcess(disk / "data") as broker:
            stored = _fill(broker)
            if end == "stop":
                assert broker.stop() == 0
            else:
                broker.kill()
        with (disk / "somebody").open("wb", buffering=0) as other, contextlib.suppress(OSError):
            while other.write(b"x" * 4096):
                pass
        assert os.statvfs(disk).f_bavail == 0
        with BrokerProcess(disk / "data") as broker:
            assert any("the broker is read-only: cannot write: No space left on device" in line for line in broker.log)
            client = broker.client()
            assert client.ask(b"status\r\n") == b"READONLY\r\n"
            for item in stored[:20]:
                assert client.get("q/open") == item
                assert client.ask(b"confirm q 1\r\n") == b"END\r\n"
            assert broker.client().put("q", b"x").startswith(b"SERVER_ERROR cannot write")
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            broker.wait_for_log("the broker accepts writes again")
            assert client.put("q", b"again") == b"STORED\r\n"
            broker.kill()
        with BrokerProcess(disk / "data") as broker:
            assert [*broker.client().take_all("q")] == [*stored[20:], b"again"]


def test_files_may_not_grow(tmp_path: Path) -> None:
    """The same where a limit on file sizes stops the writes: works without a file system of its own."""
    with BrokerProcess(tmp_path / "data") as broker:
        pid = broker.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (6 << 20, hard))
        stored = _fill(broker)
        client = broker.client()
        assert client.ask(b"status\r\n") == b"READONLY\r\n"
        assert client.get("q/open") == stored[0]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        broker.wait_for_log("the broker accepts writes again")
        assert client.ask(b"confirm q 1\r\n") == b"END\r\n"
        assert client.put("q", b"again") == b"STORED\r\n"
        broker.kill()
    with BrokerProcess(tmp_path / "data") as broker:
        assert [*broker.client().take_all("q")] == [*stored[1:], b"again"]


def test_start_with_a_large_backlog(tmp_path: Path) -> None:
    """Start-up reads no items: it takes no more CPU time with 200,000 of them than with none, and little memory."""
    count, read_ahead = 200_000, 2000
    database = Database(tmp_path / "data", fsync=False)
    batch = Batch()
    home = _ItemOwner()
    batch.create(home, 1, b"q")
    for place in range(read_ahead):
        batch.put(home, _item(b"q", lowest_id(1) + 1 + place, b"%0100d" % place))
    assert database.write(batch).puts is None
    database.close()
    _add_rows(tmp_path / "data", range(read_ahead, count))
    with BrokerProcess(tmp_path / "none") as empty:
        assert empty.client().get("q") is None
        least_s = empty.cpu_s()
    with BrokerProcess(tmp_path / "data") as broker:
        client = broker.client()
        assert client.get("q") == b"%0100d" % 0
        assert broker.cpu_s() < least_s + 0.3, "to read them takes a second and more"
        assert client.stats()["queue_q_items"] == str(count - 1)
        assert broker.rss_bytes() < 100_000_000


def _add_rows(data: Path, places: range) -> None:
    """Adds rows of 100 bytes to queue number 1, without their checksums: a broker that reads them logs an error."""
    rows = "WITH RECURSIVE rows(place) AS (VALUES (?) UNION ALL SELECT place + 1 FROM rows WHERE place < ?)"
    with contextlib.closing(sqlite3.connect(data / "broker.sqlite", isolation_level=None)) as connection:
        connection.execute(
            f"INSERT INTO items {rows} SELECT {lowest_id(1)} + 1 + place, 1, 0, zeroblob(100), 0 FROM rows",
            (places.start, places.stop - 1),
        )
        counters = "items = items + :rows, bytes = bytes + 100 * :rows, ever = ever + :rows"
        connection.execute(f"UPDATE queues SET {counters}", {"rows": len(places)})


def _item(queue: bytes, id_: int, data: bytes) -> StoredItem:
    return StoredItem(id_, 1, 0, data, checksum.of_item(checksum.seed(queue), id_, 1, 0, data))


class _ItemOwner:
    """An item's home that hears nothing."""

    def created(self) -> None: ...
    def checked(self) -> None: ...
    def placed(self, item: StoredItem) -> None: ...
    def not_placed(self, item: StoredItem) -> None: ...
    def not_removed(self, item: StoredItem) -> None: ...
    def serve(self) -> None: ...


def test_database_drops_in_slices_and_over_restarts(tmp_path: Path) -> None:
    """A dropped queue is gone for good although the process ended half way; its rows go at the next start."""
    home = _ItemOwner()
    database = Database(tmp_path, fsync=False)
    batch = Batch()
    for number in (1, 2):
        batch.create(home, number, b"q%d" % number)
        for place in range(1, PURGE_ROWS + 100):
            batch.put(home, _item(b"q%d" % number, lowest_id(number) + place, b"x"))
    assert database.write(batch).puts is None
    drop = Batch()
    drop.purges.append(_purge_of(1))
    (left,) = database.write(drop).unfinished
    database.close()

    database = Database(tmp_path, fsync=False)
    kept = StoredQueue(2, b"q2", PURGE_ROWS + 99, PURGE_ROWS + 99, PURGE_ROWS + 99, lowest_id(2) + PURGE_ROWS + 99)
    found = database.inventory()
    assert found.queues == [kept]
    (again,) = found.dropped
    assert again.number == left.number == 1
    rest = Batch()
    rest.purges.append(again)
    assert database.write(rest).unfinished == ()
    database.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "broker.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (PURGE_ROWS + 99,)
        assert connection.execute("SELECT count(*) FROM queues").fetchone() == (1,)


def _purge_of(number: int):
    from gateway.broker.storage.batch import Purge

    return Purge(number, [(lowest_id(number), lowest_id(number + 1) - 1)], drop=True)


def test_summary_heals_when_rows_were_gone(tmp_path: Path) -> None:
    """Removing a row that does not exist recounts the queue instead of counting wrong."""
    home = _ItemOwner()
    database = Database(tmp_path, fsync=False)
    batch = Batch()
    batch.create(home, 1, b"q")
    items = [_item(b"q", lowest_id(1) + place, b"abc") for place in (1, 2, 3)]
    for item in items:
        batch.put(home, item)
    database.write(batch)
    for _ in range(2):
        removal = Batch()
        removal.remove(home, items[0])
        assert database.write(removal).removals is None
    assert [(found.items, found.bytes) for found in database.inventory().queues] == [(2, 6)]
    with pytest.raises(DatabaseError, match="in use"):
        Database(tmp_path, fsync=False)
    database.close()


def test_removals_that_fail_do_not_fill_the_log(tmp_path: Path) -> None:
    """A consumer whose acks fail gets the same job again and again; the log, perhaps on the same disk, has one line."""
    with BrokerProcess(tmp_path / "data") as broker:
        assert broker.client().put("q", b"x") == b"STORED\r\n"
        pid = broker.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        for _ in range(5):
            client = broker.client()
            assert client.get("q/open") == b"x"
            assert client.ask(b"confirm q 1\r\n").startswith(b"SERVER_ERROR cannot write")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        broker.client().ask(b"status readonly\r\n")
        broker.wait_for_log("status set to READONLY")
        assert sum("removals will be tried again" in line for line in broker.log) == 1
