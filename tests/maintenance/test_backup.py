"""A backup has every job that was answered before it began, and it is a directory that a gateway can use."""

import os
import re
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from unittest import mock

import pytest

from gateway.maintenance.backup import BackupError, back_up
from tests.lab import plain
from tests.lab.commands import Commands
from tests.lab.forkserver import ForkedProcess, umask
from tests.lab.gateway import Running, running
from tests.lab.waiting import until

SECONDS = float(os.environ.get("KESTREL_GATEWAY_TEST_BACKUP_SECONDS", "0.5"))
"""How long jobs are enqueued before the backup and again during it. 30 is the long form."""
BATCH = 50
PAUSE_S = 0.005
"""Between two batches, about as long as one takes: the more jobs there are, the longer takes the test's end."""
QUEUE = "/queues/emails"
KEYED = {"Idempotency-Key": "k1", "Content-Type": "text/plain"}


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`kestrel-gateway backup` with these arguments, in this process; the check that it starts is forked."""
    with mock.patch("subprocess.Popen", ForkedProcess):
        done = Commands("http://127.0.0.1:9")("backup", *map(str, arguments))
    return subprocess.CompletedProcess(arguments, done.returncode, done.stdout.decode(), done.stderr.decode())


class Producer:
    """Enqueues numbered jobs until it is stopped. stored: the number of jobs that were answered with 201."""

    def __init__(self, gateway: Running) -> None:
        self._gateway = gateway
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.stored = 0

    def _run(self) -> None:
        with self._gateway.client() as http:
            while not self._over.wait(PAUSE_S):
                lines = "".join(f"{self.stored + index}\n" for index in range(BATCH))
                answer = http.post(f"{QUEUE}/jobs", content=lines, headers={"Content-Type": "application/x-ndjson"})
                assert answer.status_code == 201
                self.stored += BATCH

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def wait(self, jobs: int) -> None:
        """Returns once so many jobs are stored."""
        until(lambda: self.stored >= jobs)


def jobs_of(gateway: Running) -> Iterator[int]:
    """Takes and acks every job."""
    with gateway.client() as http:
        answer = http.get(f"{QUEUE}/next", params={"timeout": 0, "max": 100})
        while answer.status_code == 200:
            batch = answer.json()
            yield from (job["data"] for job in batch["jobs"])
            answer = http.get(f"{QUEUE}/next", params={"timeout": 0, "max": 100, "ack": batch["lease"]["id"]})
        assert answer.status_code == 204


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One gateway for all tests here."""
    with running(tmp_path_factory.mktemp("backup") / "data", "--log-level", "warning") as one:
        yield one


def test_a_backup_under_load_has_every_job_of_before(gateway: Running, tmp_path: Path) -> None:
    """Jobs are enqueued all the time, one is under lease, and the copy is served beside the original."""
    copy = tmp_path / "copy"
    with gateway.client() as http:
        keyed = http.post(f"{QUEUE}/jobs", content="once", headers=KEYED)
        assert keyed.status_code == 201
        leased = http.get(f"{QUEUE}/next")
        with Producer(gateway) as producer:
            producer.wait(int(1000 * SECONDS))
            before = producer.stored
            result = command(copy, "--data", gateway.data)
            producer.wait(producer.stored + 2 * BATCH)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == f"start the copy with: kestrel-gateway serve --data {copy}"
        assert result.stdout.startswith("sound: 1 queue, ")
        assert http.post(leased.json()["lease"]["url"] + "/ack").status_code == 204, "the original goes on"
    assert {path.stat().st_mode & 0o077 for path in [copy, *copy.iterdir()]} == {0}
    with running(copy) as restored:
        with restored.client() as http:
            again = http.post(f"{QUEUE}/jobs", content="once", headers=KEYED)
            assert (again.status_code, again.json()) == (201, keyed.json())
        found = list(jobs_of(restored))
    assert found[0] == "once", "a job under lease is in the backup"
    assert found[1:] == list(range(len(found) - 1))
    assert len(found) - 1 >= before > 0


def test_a_backup_has_large_jobs(tmp_path: Path) -> None:
    """They are stored in parts, and one is being written during the backup; the copy is sound and delivers them."""
    body = os.urandom((2 << 20) + 1)  # one byte more than is stored in one piece
    kind = {"Content-Type": "application/octet-stream"}

    def write() -> None:
        with whole.client() as other:
            other.post("/queues/more/jobs", content=body * 2, headers=kind)

    with running(tmp_path / "data", "--max-job-bytes", str(32 << 20)) as whole:
        with whole.client() as http:
            http.post("/queues/large/jobs", content=body, headers=kind).raise_for_status()
            log = whole.data / "broker.sqlite-wal"
            before = log.stat().st_mtime_ns
            writing = threading.Thread(target=write)
            writing.start()
            until(lambda: log.stat().st_mtime_ns != before)
            result = command(tmp_path / "copy", "--data", whole.data)
            writing.join()
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("sound: "), result.stdout
    with running(tmp_path / "copy") as restored, restored.client() as http:
        found = http.get("/queues/large/next?format=raw")
        assert found.content == body
        assert http.post(f"/leases/{found.headers['Lease-Id']}/ack").status_code == 204


def test_it_counts_what_users_know(gateway: Running, tmp_path: Path) -> None:
    """Queues and jobs, with dead letters and delayed jobs apart; the gateway's own queues are not among them."""

    def counts(copy: Path) -> list[int]:
        result = command(copy, "--data", gateway.data)
        number = "([0-9,]+)"
        pattern = f"sound: {number} queues?, {number} jobs?(?:, {number} dead letters?, {number} delayed jobs?)?\n"
        line = re.search(pattern, result.stdout)
        assert line, result.stdout
        return [int((each or "0").replace(",", "")) for each in line.groups()]

    with gateway.client() as http:
        before = counts(tmp_path / "before")
        for _ in range(5):
            http.post("/queues/counted/jobs", content="1").raise_for_status()
        for _ in range(2):
            http.post("/queues/counted/jobs?delay=900", content="1").raise_for_status()
        for _ in range(3):
            http.post(http.get("/queues/counted/next").json()["lease"]["url"] + "/reject")
        http.put("/queues/counted/pause", json={}).raise_for_status()
        after = counts(tmp_path / "after")
        http.delete("/queues/counted").raise_for_status()
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 2, 3, 2]


def test_what_is_there_is_never_overwritten(gateway: Running, tmp_path: Path) -> None:
    """Neither a directory nor a file nor a link."""
    (tmp_path / "mine").mkdir()
    result = command(tmp_path / "mine", "--data", gateway.data)
    assert (result.returncode, result.stderr) == (
        1,
        f"kestrel-gateway backup: {tmp_path / 'mine'} exists already; name a directory that does not exist\n",
    )
    assert list((tmp_path / "mine").iterdir()) == []
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BackupError, match="exists already"):
        back_up(gateway.data, tmp_path / "link", lambda *_: None)


def test_a_copy_inside_its_own_directory(gateway: Running, tmp_path: Path) -> None:
    """It would be lost with the original; it is refused, also by way of a link."""
    (tmp_path / "link").symlink_to(gateway.data)
    for place in (gateway.data, gateway.data / "copy", tmp_path / "link" / "a" / "copy"):
        with pytest.raises(BackupError, match="is inside"):
            back_up(gateway.data, place, lambda *_: None)
    assert not (gateway.data / "copy").exists()


def test_a_killed_backup_leaves_no_copy_and_the_next_one_succeeds(gateway: Running, tmp_path: Path) -> None:
    """Nothing has the name of the copy before it is complete. Its umask ends with it."""
    copy, before = tmp_path / "copy", umask()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    plain.post(gateway.url + f"{QUEUE}/jobs", content=b"1")
    with pytest.raises(KeyboardInterrupt):
        back_up(gateway.data, copy, die)
    assert [path.name for path in tmp_path.iterdir()] == ["copy.partial"]
    back_up(gateway.data, copy, lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert umask() == before


def test_a_directory_that_is_none_is_told(tmp_path: Path) -> None:
    """One line, and nothing is made."""
    result = command(tmp_path / "copy", "--data", tmp_path)
    assert result.returncode == 1
    assert result.stderr == (
        f"kestrel-gateway backup: {tmp_path} is not a data directory: it has no lease.key; "
        "give the directory of --data\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_gateway_left_is_backed_up_unchanged(tmp_path: Path) -> None:
    """The log that it left is read, and stays."""
    gateway = Running(tmp_path / "data")
    try:
        assert plain.post(gateway.url + f"{QUEUE}/jobs", content=b"1").status_code == 201
    finally:
        gateway.kill()
    log = (gateway.data / "broker.sqlite-wal").read_bytes()
    assert log
    assert command(tmp_path / "copy", "--data", gateway.data).returncode == 0
    assert (gateway.data / "broker.sqlite-wal").read_bytes() == log
    with sqlite3.connect(tmp_path / "copy" / "broker.sqlite") as copied:
        assert copied.execute("SELECT count(*) FROM items").fetchone() == (1,)
    copied.close()


def test_a_damaged_job_is_told(gateway: Running, tmp_path: Path) -> None:
    """The copy is as damaged as its source, here a copy itself, and the exit code says so."""
    assert plain.post(gateway.url + f"{QUEUE}/jobs", content=b"1").status_code == 201
    assert command(tmp_path / "data", "--data", gateway.data).returncode == 0
    with sqlite3.connect(tmp_path / "data" / "broker.sqlite") as file:
        file.execute("UPDATE items SET expires_ms = 1 WHERE rowid = (SELECT max(rowid) FROM items)")
    file.close()
    result = command(tmp_path / "copy", "--data", tmp_path / "data")
    assert result.returncode == 1
    assert "DAMAGED: 1 job or range of jobs" in result.stderr
    assert f"{tmp_path / 'data'} is damaged, and so is its copy {tmp_path / 'copy'}" in result.stderr
