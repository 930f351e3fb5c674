"""Damage of the file of idempotency keys: a damaged entry is never believed, and the log says what was lost."""

import asyncio
import contextlib
import logging
import random
import sqlite3

import pytest

from gateway.delivery.idempotency import ledger_file
from gateway.delivery.idempotency.ledger import DamagedEntryError, Ledger, Reply
from tests.lab import plain
from tests.lab.examples import examples
from tests.lab.gateway import Running, running

FIELDS = ["state = 2", "fingerprint = x'00'", "seed = x'00'", "owner = 'x'", "claimed_s = 1.0", "status = 200",
          "body = x'00'", "checksum = checksum + 1", "checksum = NULL", "held_until_s = 1e12"]  # fmt: skip


def execute(data, *statements):
    with contextlib.closing(sqlite3.connect(data / ledger_file.NAME, isolation_level=None)) as file:
        for statement in statements:
            file.execute(statement)


def put(http, key, body=b"1"):
    return http.post("/queues/q/jobs", content=body, headers={"idempotency-key": key})


@pytest.mark.parametrize("damage", FIELDS)
def test_a_damaged_entry_fails_alone(tmp_path, damage):
    """Whatever of it is changed; keys that share its transaction are answered, and the file stays in use."""

    async def run():
        ledger = Ledger(tmp_path / ledger_file.NAME, "a", lambda _: True, window_s=60, limit=100)
        for key in ("good", "bad"):
            await ledger.claim(("", "q", key), b"f", 60)
            await ledger.settle(("", "q", key), Reply(201, b"{}"))
        execute(tmp_path, f"UPDATE entries SET {damage} WHERE key = 'bad'")
        keys = ("good", "bad", "new", "good")
        found = await asyncio.gather(*(ledger.claim(("", "q", key), b"f", 60) for key in keys), return_exceptions=True)
        assert isinstance(found[1], DamagedEntryError)
        assert (found[0].reply, found[2].mine, found[3].reply) == (Reply(201, b"{}"), True, Reply(201, b"{}"))
        await ledger.close()

    asyncio.run(run())
    (told,) = ledger_file.damages(tmp_path / ledger_file.NAME)
    assert "1 idempotency key is damaged" in told


def test_a_retry_with_a_damaged_key_is_told(tmp_path):
    """A retry with a damaged key is 502 outcome-unknown and stores nothing; the log says it, at the start as well."""
    with running(tmp_path / "data") as gateway:
        with gateway.client() as http:
            first = put(http, "good")
            assert put(http, "bad").status_code == 201
        assert gateway.stop() == 0
        execute(tmp_path / "data", "UPDATE entries SET body = x'7b7d' WHERE key = 'bad'")
        gateway.start()
        with gateway.client() as http:
            answer = put(http, "bad")
            assert (answer.status_code, answer.json()["code"]) == (502, "outcome-unknown")
            assert "check whether the jobs are there, and send them with another key" in answer.json()["detail"]
            assert put(http, "good").content == first.content
            assert [put(http, "bad").status_code for _ in range(20)] == [502] * 20
            assert http.get("/queues/q").json()["items"] == 2
        log = gateway.log.read_text()
        assert log.count("the entry of an idempotency key is damaged") == 1
        assert "1 idempotency key is damaged" in log
        assert "the entry of an idempotency key is damaged (queue 'q', key 'bad')" in log
        assert "Traceback" not in log


def test_a_flipped_byte_hides_no_entry(tmp_path):
    """Wherever in the file it is: each retry gets its first answer or an error; none is stored again."""
    path, keys = tmp_path / ledger_file.NAME, [f"key-{number}" for number in range(80)]
    damage = random.Random(7)

    async def claimed(key):
        return await ledger.claim(("", "q", key), b"f", 60)

    async def filled():
        for key in keys:
            await claimed(key)
            await ledger.settle(("", "q", key), Reply(201, key.encode()))
        await ledger.close()

    async def retried():
        found = [await asyncio.gather(claimed(key), return_exceptions=True) for key in keys]
        await ledger.close()
        return [each for (each,) in found]

    ledger = Ledger(path, "a", lambda _: True, window_s=60, limit=100, synced=False)
    asyncio.run(filled())
    sound = path.read_bytes()
    for _ in range(examples(50)):
        content = bytearray(sound)
        at = damage.randrange(len(content))
        content[at] ^= 1 << damage.randrange(8)
        for each in tmp_path.iterdir():
            each.unlink()
        path.write_bytes(content)
        ledger = Ledger(path, "b", lambda _: True, window_s=60, limit=100, synced=False)
        for key, found in zip(keys, asyncio.run(retried()), strict=True):
            if isinstance(found, BaseException):
                assert isinstance(found, sqlite3.Error | ledger_file.UnknownFormatError | DamagedEntryError), (
                    at,
                    found,
                )
            else:
                assert found.reply == Reply(201, key.encode()), at


def test_a_damaged_schema_is_an_error_of_the_file(tmp_path):
    """Also where SQLite's own message is not UTF-8."""
    path = tmp_path / ledger_file.NAME
    ledger_file.opened(path, synced=False).close()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"held_until_s REAL", b"held_\xffntil_s RE\xffL"))
    with pytest.raises(sqlite3.DatabaseError, match="schema") as raised:
        ledger_file.opened(path, synced=False)
    assert "move idempotency.db* out of the data directory" in ledger_file.explained(raised.value)
    with pytest.raises(sqlite3.DatabaseError, match="schema"):
        list(ledger_file.damages(path))


def test_a_damaged_time_forgets_no_entry(tmp_path):
    """The sweep removes only entries whose checksum says that their time is right."""
    path = tmp_path / ledger_file.NAME

    async def run():
        ledger = Ledger(path, "a", lambda _: True, window_s=60, limit=100)
        await ledger.claim(("", "q", "bad"), b"f", 60)
        await ledger.close()
        execute(tmp_path, "UPDATE entries SET claimed_s = 1.0, held_until_s = 1.0")
        ledger = Ledger(path, "b", lambda _: True, window_s=60, limit=100)
        await ledger.claim(("", "q", "other"), b"f", 60)  # its transaction also sweeps
        with pytest.raises(DamagedEntryError):
            await ledger.claim(("", "q", "bad"), b"f", 60)
        await ledger.close()

    asyncio.run(run())


def test_a_sweep_that_fails_fails_no_request(tmp_path, caplog):
    """An old entry that cannot be removed is told once, and what to do; new keys are stored."""
    path = tmp_path / ledger_file.NAME
    _format_0(path)
    with contextlib.closing(ledger_file.opened(path, synced=False)) as file:
        file.execute("UPDATE entries SET claimed_s = 1.0, held_until_s = 1.0")
        file.execute(ledger_file.SET_CHECKSUM + "true")
        (root,) = file.execute("SELECT rootpage FROM sqlite_schema WHERE name LIKE 'sqlite_autoindex%'").fetchone()
    content = bytearray(path.read_bytes())
    at = content.index(b"qk", (root - 1) * 4096)
    content[at + 1] ^= 0x20
    path.write_bytes(content)

    async def run():
        ledger = Ledger(path, "a", lambda _: True, window_s=60, limit=100)
        for key in ("one", "two"):
            assert (await ledger.claim(("", "q", key), b"f", 60)).fresh
            ledger._swept_s = 0.0
        await ledger.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    (told,) = caplog.messages
    assert "old keys cannot be removed: database disk image is malformed: the file is damaged; stop the gateway" in told


def test_a_damaged_page_is_one_line(tmp_path):
    """Each request with a key is 503 and stores nothing; the log says once what to do, and has no traceback."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / ledger_file.NAME
    ledger_file.opened(path, synced=False).close()
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page] = 0xFF
    path.write_bytes(content)
    with running(tmp_path / "data") as gateway:
        with gateway.client() as http:
            for number in range(20):
                answer = put(http, f"key-{number}")
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                assert "nothing was enqueued" in answer.json()["detail"]
            assert http.post("/queues/q/jobs", content=b"1").status_code == 201
            assert http.get("/queues/q").json()["items"] == 1
        told = gateway.log.read_text()
        assert told.count("idempotency.db cannot be used: database disk image is malformed") == 1
        assert "move idempotency.db* out of the data directory" in told
        assert "Traceback" not in told


def test_a_damaged_log_is_told(tmp_path):
    """One flipped byte in what a killed gateway left, or the log is gone: the next start says so, and serves."""
    with running(tmp_path / "data") as gateway:
        path = tmp_path / "data" / "idempotency.db-wal"
        for times, damage in enumerate(("last", "removed"), 1):
            with gateway.client() as http:
                for number in range(10):
                    assert put(http, f"{damage}-{number}").status_code == 201
            gateway.kill()
            content = bytearray(path.read_bytes())
            content[len(content) - 1000] ^= 0x10
            path.unlink() if damage == "removed" else path.write_bytes(content)
            gateway.start()
            log = gateway.log.read_text()
            assert log.count("idempotency.db-wal is damaged: ") == times, damage
            assert log.count("a retry with one of them stores its job again") == times, damage
        with gateway.client() as http:
            assert put(http, "another").status_code == 201


def test_a_sound_file_is_not_complained_of(tmp_path):
    """Stopped and killed, with two workers that share it."""
    with running(tmp_path / "data", "--workers", "2") as gateway:
        for end in ("stop", "kill"):
            with plain.client(base_url=gateway.url, timeout=30) as http:
                answers = [put(http, f"key-{number}").content for number in range(10)]
            getattr(gateway, end)()
            gateway.start()
        with gateway.client() as http:
            assert [put(http, f"key-{number}").content for number in range(10)] == answers
        assert "damaged" not in gateway.log.read_text()


def test_a_damaged_index_is_told(tmp_path):
    """An entry that a look-up cannot find any more is found by reading the whole file."""
    path = tmp_path / ledger_file.NAME
    with contextlib.closing(ledger_file.opened(path, synced=False)) as file:
        for key in ("a", "b"):
            file.execute(
                "INSERT INTO entries (tenant, queue, key, state, fingerprint, seed, owner, claimed_s, held_until_s) "
                "VALUES ('', 'q', ?, 3, x'00', x'00', 'o', 1, 1)",
                (key,),
            )
        file.execute(ledger_file.SET_CHECKSUM + "true")
    assert list(ledger_file.damages(path)) == []
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_schema WHERE name LIKE 'sqlite_autoindex%'").fetchone()
    content = bytearray(path.read_bytes())
    at = content.index(b"qb", (root - 1) * 4096)
    content[at + 1] ^= 0x20
    path.write_bytes(content)
    (told,) = ledger_file.damages(path)
    assert "is damaged; a retry may store its job again: " in told


def _format_0(path):
    """As it was before entries had checksums."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute(ledger_file._ENTRIES)
        file.execute("CREATE INDEX by_time ON entries (claimed_s)")
        file.execute(
            "INSERT INTO entries (tenant, queue, key, state, fingerprint, seed, owner, claimed_s, held_until_s, "
            "status, body) VALUES ('', 'q', 'k', 3, x'66', x'00', 'o', 9e9, 9e9, 201, x'7b7d')"
        )


def test_the_format_without_checksums_is_brought_up_to_date(tmp_path):
    """What was answered then is answered again."""
    path = tmp_path / ledger_file.NAME
    _format_0(path)
    assert ledger_file.prepare(path) is None

    async def run():
        ledger = Ledger(path, "a", lambda _: True, window_s=60, limit=100)
        assert (await ledger.claim(("", "q", "k"), b"f", 60)).reply == Reply(201, b"{}")
        await ledger.close()

    asyncio.run(run())
    assert list(ledger_file.damages(path)) == []


def test_a_newer_format_is_refused(tmp_path):
    """The gateway does not start, and says in one line what to use; the file is left as it is."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / ledger_file.NAME
    _format_0(path)
    execute(tmp_path / "data", "PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="format 2 is above 1, the newest that this version"):
        Running(tmp_path / "data")
    assert path.read_bytes() == before
