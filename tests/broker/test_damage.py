"""Damage of the data directory: damaged jobs are never delivered, the others are, and the log says so. Real files."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import random
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest

from gateway.broker.broker import Status
from gateway.broker.check.examine import examine, locked
from gateway.broker.storage import schema
from gateway.broker.storage.batch import SEQUENCE_BITS, Batch, StoredItem
from gateway.broker.storage.checksum import seed
from gateway.broker.storage.database import Database
from gateway.broker.storage.inventory import lowest_id
from gateway.broker.storage.reader import DatabaseError, QueueRows, Reader
from tests.broker import damaging
from tests.broker.damaging import check, copy, execute, fill, serve, unlike
from tests.broker.steps import Steps
from tests.broker.test_durability import _item, _ItemOwner
from tests.lab.broker import BrokerProcess
from tests.lab.examples import examples, some
from tests.lab.forkserver import ForkedProcess

FLIPS = int(os.environ.get("KESTREL_GATEWAY_TEST_FLIPS", "40"))
"""500 is the long form."""

JOBS = {"emails": [b'{"n": %d}' % i for i in range(6)], "other": [b"a", b"b"]}
SECOND = (1 << SEQUENCE_BITS) + 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that a stopped broker has left, with JOBS."""
    data = tmp_path_factory.mktemp("whole") / "data"
    fill(data, JOBS)
    return data


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that a killed broker has left, with JOBS: its log holds a commit for each."""
    data = tmp_path_factory.mktemp("killed") / "data"
    fill(data, JOBS, end="kill")
    return data


def place(number: int) -> int:
    """The id of the second item of queue `number`."""
    return (number << SEQUENCE_BITS) + 2


ROWS = {
    "its bytes": "data = CAST('{\"n\": 9}' AS BLOB)",
    "its expiry": "expires_ms = 1",
    "its time": "added_ms = added_ms + 1",
    "its checksum": "checksum = checksum + 1",
    "no checksum": "checksum = NULL",
    "its type": "data = 7",
    "its expiry's type": "expires_ms = 'soon'",
    "its place": "id = id + 100",
    "another job's bytes": "(data, checksum) = (SELECT data, checksum FROM items AS next WHERE next.id = items.id + 1)",
    "another queue's row": f"id = {place(11) + 9}",
}
"""Each is done to the second item of a queue of its own."""


def test_a_damaged_row_is_set_aside_and_the_others_flow(tmp_path: Path) -> None:
    """Whatever of the row is changed: the log names queue and place, `check` does, and it comes under no queue."""
    jobs = {f"q{number}": [b'{"n": %d, "queue": %d}' % (i, number) for i in range(6)] for number in range(1, 11)}
    jobs["other"] = [b"a", b"b"]
    data = tmp_path / "data"
    fill(data, jobs)
    for number, change in enumerate(ROWS.values(), 1):
        execute(data, f"UPDATE items SET {change} WHERE id = {place(number)}")
    found = serve(copy(data, tmp_path / "served"), [*jobs])
    code, said = check(data)
    assert code == 1
    assert f"DAMAGED: {len(ROWS)} jobs or ranges of jobs cannot be delivered" in said
    again = serve(tmp_path / "served", [*jobs])  # they stay in the file, and are reported again
    assert not any(again.delivered.values())
    for number, what in enumerate(ROWS, 1):
        name = f"q{number}"
        assert unlike(found.delivered, {name: jobs[name]}) == ([], [f"{name}: {jobs[name][1]!r}"]), what
        queue = "other" if what == "another queue's row" else name
        reported = f"queue b'{queue}': a job is damaged and is not delivered: place "
        assert any(reported in line for line in found.errors), what
        assert any(reported in line for line in again.errors), what
        assert f"\n{queue}: place " in said, what
    assert found.delivered["other"] == jobs["other"]


def test_a_header_that_allows_no_writes(whole: Path, tmp_path: Path) -> None:
    """The broker would serve and store nothing: it does not start, `check` says so, and `--repair` mends it."""
    data = copy(whole, tmp_path / "data")
    content = bytearray((data / "broker.sqlite").read_bytes())
    content[18] ^= 0x04
    (data / "broker.sqlite").write_bytes(content)
    code, said = check(data)
    assert code == 1
    assert "the file is damaged: its header has the write version 6, so SQLite does not write to it" in said
    found = serve(copy(data, tmp_path / "served"), [])
    assert not found.started
    assert "write version 6" in found.log
    check(data, "--repair")
    assert check(data)[0] == 0
    assert serve(data, [*JOBS]).delivered == JOBS


STATUS = {
    "its value": "UPDATE meta SET value = 'RE@DONLY' WHERE key = 'status'",
    "its text": "UPDATE meta SET value = CAST(x'5245c1444f4e4c59' AS TEXT) WHERE key = 'status'",
    "its key": "UPDATE meta SET key = 'stauts' WHERE key = 'status'",
}


@pytest.mark.parametrize("what", STATUS)
def test_a_damaged_status_is_told(whole: Path, tmp_path: Path, what: str) -> None:
    """It has no checksum: the log and `check` say that it is damaged, the broker is UP, and `--repair` drops it."""
    data = copy(whole, tmp_path / "data")
    execute(data, "INSERT INTO meta VALUES ('status', 'READONLY')", STATUS[what])
    code, said = check(data)
    assert code == 1
    assert ("the stored setting 'stauts' is unknown" if what == "its key" else "the stored status 'RE") in said
    found = serve(copy(data, tmp_path / "served"), [*JOBS])
    assert found.delivered == JOBS
    assert any("the stored s" in line for line in found.errors)
    check(data, "--repair")
    assert check(data)[0] == 0


HARMLESS = [*range(24, 28), *range(40, 44), *range(48, 52), *range(72, 100)]


def test_what_check_does_not_look_at_changes_nothing(whole: Path, tmp_path: Path) -> None:
    """Counters and spare bytes of the header, and the free part of a page: `check` is right to call the file sound."""
    for at in (*HARMLESS[::5], 50, 4096 + 100):
        data = copy(whole, tmp_path / "data")
        content = bytearray((data / "broker.sqlite").read_bytes())
        content[at] ^= 0x40
        (data / "broker.sqlite").write_bytes(content)
        with locked(data) as path:
            assert examine(path, lambda *_: None).is_sound, at
    assert serve(data, [*JOBS]).delivered == JOBS


def test_the_names_of_a_status_are_those_of_the_file() -> None:
    """The file's layer does not know the broker's."""
    assert set(Status.__members__) == schema.STATUSES


def test_a_row_that_is_gone_is_reported(whole: Path, tmp_path: Path) -> None:
    """Once its queue was read, the log says how many jobs are missing; the counter is right again afterwards."""
    data = copy(whole, tmp_path / "data")
    execute(data, f"DELETE FROM items WHERE id = {SECOND}")
    code, said = check(data)
    assert (code, "emails: 1 job that was counted cannot be found" in said) == (1, True)
    found = serve(data, [*JOBS])
    assert any("queue b'emails': 1 job that it should hold is not in the file, and lost" in e for e in found.errors)
    assert check(data)[0] == 0


COUNTERS = ["items = items + 5", "items = items - 3", "items = -1", "bytes = 'x'", "bytes = bytes + 1", "ever = -7"]


def test_damaged_counters_heal(tmp_path: Path) -> None:
    """They lose no job, and are right again when the queue was read."""
    jobs = {f"q{number}": [b"%d" % i for i in range(6)] for number in range(1, 1 + len(COUNTERS))} | {"other": [b"a"]}
    fill(tmp_path / "sound", jobs)
    data = copy(tmp_path / "sound", tmp_path / "data")
    for number, change in enumerate(COUNTERS, 1):
        alone = copy(tmp_path / "sound", tmp_path / "alone")
        for each in (data, alone):
            execute(each, f"UPDATE queues SET {change} WHERE number = {number}")
        assert check(alone)[0] == (0 if "ever" in change else 1), change
    assert check(data)[0] == 1
    assert unlike(serve(data, [*jobs]).delivered, jobs) == ([], [])
    assert damaging.rows(data, "SELECT items, bytes FROM queues") == [(0, 0)] * len(jobs)
    assert check(data)[0] == 0


DAMAGED_QUEUES = [
    "name = CAST('emaimls' AS BLOB)",
    "name = NULL",
    "name = 3",
    "checksum = 1",
    "unchecked = 5",
    "number = 77",
]


def test_a_damaged_queue_is_set_aside(tmp_path: Path) -> None:
    """Its jobs are delivered under no name and are not dropped; the others flow, and its name can be used."""
    jobs = {f"q{number}": [b"%d of %d" % (i, number) for i in range(6)] for number in range(1, 1 + len(DAMAGED_QUEUES))}
    data = tmp_path / "data"
    fill(data, jobs | {"other": [b"a", b"b"]})
    for number, damage in enumerate(DAMAGED_QUEUES, 1):
        execute(data, f"UPDATE queues SET {damage} WHERE number = {number}")
    theirs = f"SELECT * FROM items WHERE id >> 40 <= {len(jobs)}"
    before = damaging.rows(data, theirs)
    found = serve(copy(data, tmp_path / "served"), [*jobs, "other", "emaimls"])
    assert found.delivered == {name: [] for name in jobs} | {"other": [b"a", b"b"], "emaimls": []}
    assert sum("is damaged: its jobs are not delivered" in line for line in found.errors) >= len(DAMAGED_QUEUES)
    code, said = check(data)
    assert (code, "of queue number " in said) == (1, True)
    new = {name: [b"new"] for name in jobs}
    fill(tmp_path / "served", new)
    assert serve(tmp_path / "served", [*jobs]).delivered == new
    assert damaging.rows(tmp_path / "served", theirs) == before


def test_jobs_without_a_queue_are_reported(whole: Path, tmp_path: Path) -> None:
    """The row of the queue is gone: the log and `check` say so, and no new queue inherits them."""
    data = copy(whole, tmp_path / "data")
    execute(data, "DELETE FROM queues WHERE number = 2")
    assert "there are jobs of queue number 2, but no such queue" in check(data)[1]
    found = serve(data, ["third"])
    assert found.delivered == {"third": []}
    assert any(
        "there are jobs of queue number 2, but no such queue: they are not delivered" in line for line in found.errors
    )
    fill(data, {"third": [b"x"]})
    assert serve(data, ["third"]).delivered == {"third": [b"x"]}


def _leaf_in_the_middle(data: Path) -> int:
    """The number of a page that holds nothing but items."""
    content = (data / "broker.sqlite").read_bytes()
    size = int.from_bytes(content[16:18], "big")
    pages = {number: content[number * size : (number + 1) * size] for number in range(1, len(content) // size)}
    leaves = [number for number, page in pages.items() if page[0] == 13 and b"-job-" in page]
    assert len(leaves) > 10
    return leaves[len(leaves) // 2]


LONG = {"long": [b"%04d-job-" % i + b"x" * 50 for i in range(2000)], "other": [b"a", b"b"]}


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that a stopped broker has left, with LONG."""
    data = tmp_path_factory.mktemp("long") / "data"
    fill(data, LONG)
    return data


@pytest.mark.parametrize("damage", [b"\xff" * 4096, bytes(4096)])
def test_a_page_that_cannot_be_read(long: Path, tmp_path: Path, damage: bytes) -> None:
    """Its jobs are lost and reported; those behind it in the queue and the other queues flow, and sets go on."""
    data = copy(long, tmp_path / "data")
    stored = {queue: [*jobs] for queue, jobs in LONG.items()}
    page = _leaf_in_the_middle(data)
    with (data / "broker.sqlite").open("r+b") as file:
        file.seek(page * 4096)
        file.write(damage)
    assert check(data)[0] == 1
    with BrokerProcess(data, "--fsync", "off") as broker:
        client = broker.client()
        for queue in ("long", "other", "third"):
            assert client.put(queue, b"new") == b"STORED\r\n"
            stored.setdefault(queue, []).append(b"new")
        assert client.ask(b"status\r\n") == b"UP\r\n"
        assert broker.stop() == 0
    found = serve(data, [*stored])
    wrong, lost = unlike(found.delivered, stored)
    assert wrong == []
    assert 10 < len(lost) < 120
    assert all(line.startswith("long: ") for line in lost)
    assert any("queue b'long': a job is damaged and is not delivered: place " in line for line in found.errors)
    assert found.delivered["long"] == sorted(found.delivered["long"])


POINTERS = {f"d{queue}": [b"job-%05d-" % i * 30 for i in range(queue, 300, 3)] for queue in range(3)}
"""300 jobs of 300 bytes in three queues: about a dozen to a page."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that a stopped broker has left, with POINTERS."""
    data = tmp_path_factory.mktemp("pages") / "data"
    fill(data, POINTERS)
    return data


def _pointers(data: Path) -> list[tuple[int, int]]:
    """Of each page that holds nothing but items: the place of its cell pointers in the file, and their number."""
    content = (data / "broker.sqlite").read_bytes()
    found = [
        (at + 8, int.from_bytes(content[at + 3 : at + 5], "big"))
        for at in range(4096, len(content), 4096)
        if content[at] == 13 and b"job-" in content[at : at + 4096]
    ]
    assert len(found) > 20
    return found


def _redirect(data: Path, array: int, cell: int, to: int) -> None:
    """Makes the pointer to a cell point to another one of the same page, so that its row comes twice."""
    with (data / "broker.sqlite").open("r+b") as file:
        file.seek(array + 2 * to)
        pointer = file.read(2)
        file.seek(array + 2 * cell)
        file.write(pointer)


REPEATS = {"first": [0], "last": [-1], "all": range(1, 99), "upper half": range(6, 99)}
"""The pointers of one page that are made to point to an earlier row, or for the first one to the last row."""


@pytest.mark.parametrize("which", some([*REPEATS], fewest=2))
def test_a_page_whose_rows_repeat(pages: Path, tmp_path: Path, which: str) -> None:
    """`check` ends and says so; each job comes at most once, the log names the place once; a repaired file is sound."""
    data = copy(pages, tmp_path / "data")
    array, count = _pointers(data)[10]
    for cell in sorted({cell % count for cell in REPEATS[which] if cell < count}):
        _redirect(data, array, cell, count - 1 if cell == 0 else 1 if cell > 1 else 0)
    code, said = check(data)
    assert (code, "DAMAGED: " in said) == (1, True), said
    found = serve(copy(data, tmp_path / "served"), [*POINTERS])
    wrong, lost = unlike(found.delivered, POINTERS)
    assert wrong == []  # also none that comes a second time
    assert len(lost) <= count + 1
    assert all(jobs == sorted(jobs) for jobs in found.delivered.values())
    assert any("the tree is damaged: its rows are out of order" in line for line in found.errors), found.log
    assert len(found.errors) == len(set(found.errors)) <= 2 * count + 10
    assert check(data, "--repair")[0] == 0
    assert unlike(serve(data, [*POINTERS]).delivered, POINTERS)[0] == []


@pytest.mark.parametrize("cell", [1, 7])
def test_a_pointer_to_no_row(pages: Path, tmp_path: Path, cell: int) -> None:
    """A search ends at an earlier row, and a read fails: `check` ends, no acked job comes again, the log is short."""
    data = copy(pages, tmp_path / "data")
    array, count = _pointers(data)[0]
    with (data / "broker.sqlite").open("r+b") as file:
        file.seek(array + 2 * cell)
        high = file.read(1)[0]
        file.seek(array + 2 * cell)
        file.write(bytes([high ^ 1]))
    code, said = check(data)
    assert (code, "DAMAGED: " in said) == (1, True), said
    found = serve(copy(data, tmp_path / "served"), [*POINTERS])
    wrong, lost = unlike(found.delivered, POINTERS)
    assert wrong == []  # also none that comes a second time
    assert 0 < len(lost) <= count + 1
    assert 0 < len(found.errors) == len(set(found.errors)) <= 2 * count
    assert check(data, "--repair")[0] == 0
    assert unlike(serve(data, [*POINTERS]).delivered, POINTERS) == ([], lost)


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_one_flipped_bit_of_the_pointers(pages: Path, tmp_path: Path, count: int) -> None:
    """`check` ends, and so does a reader: every id comes at most once, and each read goes forward."""
    whole = (pages / "broker.sqlite").read_bytes()
    data = copy(pages, tmp_path / "data")
    places = [place for array, cells in _pointers(pages) for place in range(array - 8, array + 2 * cells)]
    damaged = 0
    places = places[:: len(places) // examples(count) | 1]  # odd: of some pointers the first byte, of some the second
    for place in places:
        for bit in (1, 2, 16):
            content = bytearray(whole)
            content[place] ^= bit
            (data / "broker.sqlite").write_bytes(content)
            with contextlib.closing(sqlite3.connect(data / "broker.sqlite")) as connection:
                reader = Reader(connection, data)
                for number, name in enumerate(POINTERS, 1):
                    ids = _read_all(reader, QueueRows(number, seed(name.encode()), 0))
                    assert ids == sorted(set(ids)), f"{place} ^ {bit}"
            damaged += _check(data)
    assert damaged > len(places)


def _read_all(reader: Reader, source: QueueRows) -> list[int]:
    after, upto, ids = lowest_id(source.number), lowest_id(source.number) + 1000, []
    while after < upto:
        window = reader.read(source, after, upto, 1000, 1 << 20)
        assert window.upto > after, window.damaged
        after = window.upto
        ids += [item.id for item in window.items]
    return ids


def test_repair_keeps_what_is_sound(long: Path, tmp_path: Path) -> None:
    """A sound file takes the damaged one's place, which is kept; every job that could be delivered still can."""
    data = copy(long, tmp_path / "data")
    with (data / "broker.sqlite").open("r+b") as file:
        file.seek(_leaf_in_the_middle(data) * 4096)
        file.write(b"\xff" * 4096)
    damaged = (data / "broker.sqlite").read_bytes()
    code, said = check(data, "--repair")
    assert code == 0, said
    (kept,) = data.glob("broker.sqlite-damaged-*")
    assert kept.read_bytes() == damaged
    assert check(data)[0] == 0
    found = serve(data, [*LONG])
    wrong, lost = unlike(found.delivered, LONG)
    assert (wrong, found.errors) == ([], [])
    assert 10 < len(lost) < 120
    assert f"repaired: {2002 - len(lost):,} jobs are kept" in said


def test_check_of_a_directory_in_use(tmp_path: Path) -> None:
    """It is refused in one line, and the broker goes on; so is a directory that is none, and a file of another kind."""
    with BrokerProcess(tmp_path / "data") as broker:
        code, said = check(tmp_path / "data")
        why = f"{tmp_path}/data: in use by a broker; stop it first"
        assert (code, said) == (1, f"kestrel-gateway broker check: {why}\n")
        assert broker.client().put("q", b"x") == b"STORED\r\n"
    code, said = check(tmp_path / "nothing")
    assert (code, said.count("\n")) == (1, 1)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "broker.sqlite").write_bytes(b"this is no database, and never was. " * 40)
    code, said = check(tmp_path / "foreign")
    assert (code, said.count("\n")) == (1, 1)
    assert "file is not a database" in said


def test_a_broker_that_is_being_killed_is_waited_for(tmp_path: Path) -> None:
    """`check` and `compact` may begin in the moment of a `kill -9`, while the lock is still held."""
    BrokerProcess(tmp_path / "data").close()
    with (tmp_path / "data" / "broker.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        release = threading.Timer(0.3, fcntl.flock, (held, fcntl.LOCK_UN))
        release.start()
        with locked(tmp_path / "data"):
            pass
        release.join()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_check_changes_nothing(whole: Path, killed: Path, tmp_path: Path, end: str) -> None:
    """Every file is afterwards as it was, also the log of a killed broker, whose jobs are counted."""
    data = copy(whole if end == "stop" else killed, tmp_path / "data")
    before = {path.name: path.read_bytes() for path in data.iterdir() if path.name != "broker.sqlite-shm"}
    code, said = check(data)
    assert code == 0, said
    assert "sound: 2 queues, 8 jobs" in said
    assert {path.name: path.read_bytes() for path in data.iterdir() if path.name != "broker.sqlite-shm"} == before


def test_an_item_that_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    """A number that SQLite does not take, a place that is taken: the others of its commit are written and counted."""
    database = Database(tmp_path, fsync=False)
    home, batch = _ItemOwner(), Batch()
    batch.create(home, 1, b"q")
    good = [_item(b"q", lowest_id(1) + place, b"good") for place in (1, 2, 4)]
    wrong = StoredItem(lowest_id(1) + 3, 1, 2**70, b"bad", 0)
    taken = _item(b"q", lowest_id(1) + 1, b"twice")
    for item in (*good[:2], wrong, good[2], taken):  # `taken` has the place of the first
        batch.put(home, item)
    removal_of_nothing = StoredItem(lowest_id(1) + 9, 1, 0, b"", 0)
    batch.remove(home, removal_of_nothing)
    found = database.write(batch)
    assert (found.puts, found.removals) == (None, None)
    assert found.refused.keys() == {wrong.id, taken.id}
    (queue,) = database.inventory().queues
    assert (queue.items, queue.bytes) == (3, 12)
    database.close()


def test_only_its_sender_hears_of_an_item_that_cannot_be_written(tmp_path: Path) -> None:
    """The committer settles the batch without trouble, and the queue serves the others."""
    steps = Steps(tmp_path)
    steps.queues.put(b"q", b"first", 0)
    steps.commit_all()
    place = lowest_id(1) + 3
    execute(tmp_path, f"INSERT INTO items VALUES ({place}, 1, 0, x'00', 1)")
    _, ticket, second = steps.queues.put(b"q", b"second", 0)
    _, same, bad = steps.queues.put(b"q", b"bad", 0)
    _, _, last = steps.queues.put(b"q", b"last", 0)
    steps.commit_all()
    assert ticket is not None
    assert (same is ticket, ticket.error, set(ticket.refused), bad) == (True, None, {place}, place)
    assert steps.committer.trouble is None
    queue = steps.queues.get(b"q")
    assert [item.id for item in queue.backlog.ready] == [lowest_id(1) + 1, second, last]
    assert (queue.backlog.items, queue.pending) == (3, 0)
    steps.close()


# The log


@pytest.mark.parametrize("damage", ["last frame's salt", "last frame's size", "last frame's page", "cut", "removed"])
def test_the_end_of_a_log_that_is_damaged_is_told(killed: Path, tmp_path: Path, damage: str) -> None:
    """Also the last commit, and a log that is cut off at the end of a commit, or gone."""
    data = copy(killed, tmp_path / "data")
    log = data / "broker.sqlite-wal"
    content = bytearray(log.read_bytes())
    last = len(content) - 4096 - 24
    if damage == "removed":
        log.unlink()
    elif damage == "cut":
        log.write_bytes(content[:last])
    else:
        at = {"last frame's salt": last + 8, "last frame's size": last + 7, "last frame's page": last + 100}[damage]
        content[at] = 0 if damage == "last frame's size" else content[at] ^ 0x10
        log.write_bytes(content)
    code, said = check(data)
    assert code == 1
    found = serve(data, [*JOBS])
    assert unlike(found.delivered, JOBS)[0] == []
    assert any("broker.sqlite-wal is damaged: " in line for line in found.errors) or not found.started
    if found.started:
        assert "the log is damaged: " in said
        assert not serve(data, [*JOBS]).errors  # reported once


def test_a_sound_log_is_not_complained_of(tmp_path: Path) -> None:
    """Killed again and again, stopped, and started, also across the log's rounds."""
    data = tmp_path / "data"
    rounds, jobs = 4, 200  # 1,200 pages in each round: SQLite begins its log again after 1,000
    for number in range(rounds):
        with BrokerProcess(data, "--fsync", "off") as broker:
            assert not [line for line in broker.log if " ERROR " in line]
            client = broker.client()
            client.send(b"".join(b"set q 0 0 20000\r\n%b\r\n" % (b"x" * 20000) for _ in range(jobs)))
            for _ in range(jobs):
                assert client.line() == b"STORED\r\n"
            if number == 2:
                assert broker.stop() == 0
            else:
                broker.kill()
    code, said = check(data)
    assert (code, f"sound: 1 queue, {jobs * rounds:,} jobs" in said) == (0, True)


# Anything


def _check(data: Path) -> int:
    """`broker check` without a process of its own."""
    try:
        with locked(data) as path:
            return 0 if examine(path, lambda *_: None).is_sound else 1
    except DatabaseError:
        return 1


def _flip(path: Path, chance: random.Random) -> str:
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content))
    bits = chance.randrange(1, 256)
    content[at] ^= bits
    path.write_bytes(content)
    return f"{path.name} at {at} of {len(content)} ^ {bits:#x}"


@pytest.mark.parametrize("flips", [6, pytest.param(FLIPS, marks=pytest.mark.slow)])
def test_one_flipped_byte_anywhere_is_reported(tmp_path: Path, flips: int) -> None:
    """At random places of each file, once with and once without a log: no wrong job comes, none is lost unsaid."""
    stored = {
        "emails": [b'{"to": "user-%d@example.org"}' % i for i in range(200)],
        "large": [bytes([i]) * 9000 for i in range(12)],
        "emails+audit": [],
        "few": [b"1", b"", b"3"],
    }
    fill(tmp_path / "stopped", stored)
    fill(tmp_path / "killed", stored, end="kill")
    chance = random.Random(flips)
    told, lost_jobs, refused = 0, 0, 0
    for number in range(flips):
        data = copy(tmp_path / ("stopped", "killed")[number % 2], tmp_path / "damaged")
        files = [path for path in sorted(data.iterdir()) if path.stat().st_size and not path.name.endswith("-shm")]
        weights = [path.stat().st_size for path in files]
        where = _flip(chance.choices(files, weights)[0], chance)
        code = _check(data)
        found = serve(data, [*stored])
        wrong, lost = unlike(found.delivered, stored)
        assert wrong == [], f"{where}: delivered and never stored: {wrong[:3]}"
        if not found.started:
            refused += 1
            assert "kestrel-gateway broker: " in found.log, where
            assert "Traceback" not in found.log, where
            assert code == 1, f"{where}: the broker does not start, and check says nothing"
            continue
        assert "Traceback" not in found.log, f"{where}: {found.log}"
        if lost or found.refused:
            lost_jobs += len(lost)
            assert found.errors, f"{where}: {len(lost)} jobs are lost and nobody is told"
            assert code == 1, f"{where}: {len(lost)} jobs are lost and check finds nothing"
        told += bool(found.errors)
    print(f"{flips} flips: {told} were told in the log, {refused} refused at the start, {lost_jobs} jobs lost in all")


# Formats


FORMAT_1 = Path(__file__).with_name("format-1.sqlite.gz")


def _format_1(data: Path) -> Path:
    """A directory as the broker left it before rows had checksums. 18, 3, 1, 1 and 1 jobs."""
    data.mkdir()
    (data / "broker.sqlite").write_bytes(gzip.decompress(FORMAT_1.read_bytes()))
    return data


def test_format_1_is_brought_up_to_date(tmp_path: Path) -> None:
    """Every job is there, in order; then each has a checksum, and damage is found; settings are kept."""
    data = _format_1(tmp_path / "data")
    assert "format 1" in check(data)[1]
    with BrokerProcess(data, "--fsync", "off") as broker:
        assert any("upgraded from format 1 to 2" in line for line in broker.log)
        assert broker.client().ask(b"status\r\n") == b"WRITEAVOID\r\n"
        for queue in ("emails", "emails+audit", "big", "empty", "ttl"):
            broker.wait_for_log("every job of queue b'.*' has a checksum now")
            assert int(broker.client().stats()[f"queue_{queue}_items"]) > 0
        assert broker.stop() == 0
    code, said = check(data)
    assert (code, "sound: 5 queues, 24 jobs" in said) == (0, True)
    assert damaging.rows(data, "SELECT count(*) FROM items WHERE checksum ISNULL") == [(0,)]
    assert damaging.rows(data, "SELECT max(unchecked) FROM queues") == [(0,)]
    execute(data, f"UPDATE items SET data = x'00' WHERE id = {(1 << SEQUENCE_BITS) + 8}")
    found = serve(data, ["emails", "big", "empty"])
    wanted = [b'{"n": %d}' % i for i in range(5, 20) if i != 7] + [b"late %d" % i for i in range(3)]
    assert found.delivered == {"emails": wanted, "big": [bytes(range(256)) * 40], "empty": [b""]}
    assert sum("is not delivered" in line for line in found.errors) == 1


def test_a_new_file_is_like_one_that_was_brought_up_to_date(whole: Path, tmp_path: Path) -> None:
    """There is one layout of format 2."""
    old = _format_1(tmp_path / "data")
    serve(old, [])
    layout = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name"
    assert damaging.rows(old, layout) == damaging.rows(whole, layout)


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_killed_while_it_is_brought_up_to_date(tmp_path: Path, kills: int) -> None:
    """At random moments, again and again: no job is lost or changed, and in the end each has a checksum."""
    data, count = _format_1(tmp_path / "data"), min(7500 * kills, 30_000)  # so that most kills come in the middle
    with contextlib.closing(sqlite3.connect(data / "broker.sqlite", isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO queues VALUES (20, CAST('many' AS BLOB), ?, ?, ?)", (count, count * 100, count))
        rows = (((20 << SEQUENCE_BITS) + 1 + place, 1, b"%0100d" % place) for place in range(count))
        connection.executemany("INSERT INTO items VALUES (?, ?, 0, ?)", rows)
        connection.execute("COMMIT")
    chance = random.Random(1)
    halves = []
    for _ in range(kills):
        started: subprocess.Popen[bytes] = ForkedProcess(
            [*damaging.COMMAND, "--listen", "127.0.0.1:0", "--data", str(data)], stderr=subprocess.PIPE
        )
        with started:
            assert started.stderr is not None
            for line in started.stderr:  # from its first sign of life on
                if b"format 1 to 2" in line or b"queues in" in line:
                    break
            time.sleep(chance.uniform(0, 0.06))
            started.kill()
        left = damaging.rows(data, "SELECT count(*) FROM items WHERE checksum ISNULL")
        halves.append(left)
        # What is read above folds the log into the file, as a clean end would.
        (data / "broker.sqlite-mark").unlink(missing_ok=True)
    with BrokerProcess(data) as broker:
        deadline_s = time.monotonic() + 30
        client = broker.client()
        while not any("queue b'many' has a checksum" in line for line in broker.log) and time.monotonic() < deadline_s:
            if halves[-1] == [(0,)]:
                break
            broker.wait_for_log("has a checksum now")
        client.send(b"get many/open\r\nget many/open\r\n")
        assert [client.value(), client.value()] == [b"%0100d" % 0, b"%0100d" % 1]
        assert broker.stop() == 0
    code, said = check(data)
    assert (code, f"sound: 6 queues, {24 + count:,} jobs" in said) == (0, True), said
    assert damaging.rows(data, "SELECT count(*) FROM items WHERE checksum ISNULL") == [(0,)]


NEWER = "format 4 is above 3, the newest that this version of kestrel-gateway knows: use the version that wrote it"


@pytest.mark.parametrize(("version", "why"), [(4, NEWER), (3, "is damaged"), (0, "is damaged")])
def test_another_format_is_refused(whole: Path, tmp_path: Path, version: int, why: str) -> None:
    """A newer one in one line that says what to use; nothing of it is changed."""
    data = copy(whole, tmp_path / "data")
    execute(data, f"PRAGMA user_version = {version}")
    before = (data / "broker.sqlite").read_bytes()
    found = serve(data, [])
    assert not found.started
    assert f"kestrel-gateway broker: {data}/broker.sqlite: {why}" in found.log
    assert (data / "broker.sqlite").read_bytes() == before
    code, said = check(data)
    assert (code, why in said, said.count("\n")) == (1, True, 1)
