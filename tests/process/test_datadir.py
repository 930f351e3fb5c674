"""The data directory: made private, locked, with a key that is whole or not there."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gateway.process.datadir import KEY_BYTES, SOCKET_PATH_BYTES, DataDirectory, StartError
from tests.lab.commands import NOWHERE, Commands
from tests.lab.gateway import running


def mode(path: Path) -> int:
    """Its permission bits."""
    return path.stat().st_mode & 0o777


def test_everything_is_private_and_the_key_stays(short_path: Path) -> None:
    """0700, 0600, and the same key at the next start."""
    before = os.umask(0)
    try:
        first = DataDirectory(short_path / "a" / "data")
    finally:
        os.umask(before)
    assert mode(first.path) == 0o700
    assert mode(first.run_dir) == 0o700
    assert mode(first.path / "lease.key") == 0o600
    assert len(first.lease_key) == KEY_BYTES
    first.close()
    second = DataDirectory(short_path / "a" / "data")
    assert second.lease_key == first.lease_key
    second.close()
    assert sorted(path.name for path in first.path.iterdir()) == ["lease.key", "lock", "run", "run.lock"]


def test_damaged_key_is_told(tmp_path: Path) -> None:
    """A key of another length is never used, and never silently replaced."""
    (tmp_path / "lease.key").write_bytes(b"short")
    with pytest.raises(StartError, match=r"lease\.key is damaged \(5 bytes, not 32\)"):
        DataDirectory(tmp_path)
    (tmp_path / "lease.key").unlink()
    DataDirectory(tmp_path).close()


@pytest.mark.parametrize("wrong", [0o606, 0o602, 0o604, 0o666])
def test_a_key_that_others_may_read_or_write_is_refused(tmp_path: Path, wrong: int) -> None:
    """Who knows the key can settle any job: the message says the mode, and what to do."""
    DataDirectory(tmp_path).close()
    (tmp_path / "lease.key").chmod(wrong)
    with pytest.raises(StartError, match=rf"every user may read or write .*lease\.key \(mode {wrong:04o}\)"):
        DataDirectory(tmp_path)
    (tmp_path / "lease.key").chmod(0o660)  # as a volume of Kubernetes with fsGroup has it
    DataDirectory(tmp_path).close()


def test_files_of_a_version_before_become_private(tmp_path: Path) -> None:
    """What was made readable by others is not any more; files of others, and links, stay as they are."""
    ours = [tmp_path / name for name in ("idempotency.db", "idempotency.db-wal", "idempotency.db-shm", "broker.sqlite")]
    other = tmp_path / "notes.txt"
    for file in (*ours, other):
        file.write_text("")
        file.chmod(0o644)
    (tmp_path / "broker.link").symlink_to(other)
    DataDirectory(tmp_path).close()
    assert [mode(file) for file in ours] == [0o600] * 4
    assert mode(other) == 0o644


def test_every_file_of_a_gateway_is_private(short_path: Path) -> None:
    """Whatever mask it is started with, and for its whole life: no other user can read or write what it keeps."""
    before = os.umask(0)
    try:
        with running(short_path / "data") as gateway, gateway.client() as http:
            for number in range(3):
                headers = {"idempotency-key": f"k{number}"}
                assert http.post("/queues/q/jobs", json=number, headers=headers).status_code == 201
            assert http.get("/queues/q/next").status_code == 200
            found = {path.relative_to(gateway.data): mode(path) for path in gateway.data.rglob("*")}
    finally:
        os.umask(before)
    assert {Path("idempotency.db-wal"), Path("broker.sqlite-wal"), Path("run/broker.sock")} < set(found)
    assert {name: bits for name, bits in found.items() if bits & 0o077} == {}


def test_names_are_on_disk_before_they_are_relied_on(tmp_path: Path) -> None:
    """strace shows it: each new directory's parent, and the directory of a renamed key, are synced."""
    if shutil.which("strace") is None:
        reason = "strace is not installed (.ci/install/strace.sh)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    code = "import sys, pathlib, gateway.process.datadir as d; d.DataDirectory(pathlib.Path(sys.argv[1]))"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2,mkdir", sys.executable, "-c", code]
    done = subprocess.run([*command, str(tmp_path / "a" / "data")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    synced = [index for index, line in enumerate(steps) if "fsync(" in line]
    for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "data"):
        assert any(f"<{path}>" in steps[index] for index in synced), (path, steps)
    renamed = next(index for index, line in enumerate(steps) if "rename" in line)
    assert any(f"<{tmp_path / 'a' / 'data'}>" in steps[index] for index in synced if index > renamed)


FILES_THAT_DECIDE = {
    "--keys": "keys = []\n",
    "--queues": "",
    "--kestrel-file": "127.0.0.1:22133\n",
    "--cluster-secret-file": "x" * 40,
}


@pytest.mark.parametrize("flag", FILES_THAT_DECIDE)
def test_a_file_that_every_user_may_write_is_refused(tmp_path: Path, flag: str) -> None:
    """It decides who may do what: one line says so, and the gateway does not start."""
    file = tmp_path / "file"
    file.write_text(FILES_THAT_DECIDE[flag])
    command = ["serve", *NOWHERE, flag, str(file)]
    if flag == "--cluster-secret-file":
        command += ["--advertise", "http://127.0.0.1:1"]
    file.chmod(0o646)
    done = Commands("http://127.0.0.1:9")(*command)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"every user may write it (mode 0646): chmod o-w it" in done.stderr


def test_stale_sockets_are_removed(tmp_path: Path) -> None:
    """What a killed gateway left in run/ is not in the way."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "broker.sock").write_text("")
    data = DataDirectory(tmp_path)
    assert list(data.run_dir.iterdir()) == []
    data.close()


@pytest.mark.parametrize("over", [False, True])
def test_run_directory_is_as_near_as_a_socket_allows(tmp_path: Path, over: bool) -> None:
    """It is in the data directory up to the longest possible path; one byte more, and it is a temporary directory."""
    bound = SOCKET_PATH_BYTES - len("/run/0123456789abcdef.sock") - 1
    root = Path("/tmp") / f"kg{os.getpid()}"
    path = root / ("d" * (bound - len(str(root)) - 1 + over))
    try:
        data = DataDirectory(path)
        assert data.run_dir.parent != path if over else data.run_dir == path / "run"
        assert mode(data.run_dir) == 0o700
        data.close()
        assert data.run_dir.exists() is not over
    finally:
        shutil.rmtree(root)


def test_link_that_is_not_ours_is_not_followed(tmp_path: Path) -> None:
    """Only a temporary directory of our own making is ever removed."""
    precious = tmp_path / "kestrel-gateway-precious"
    precious.mkdir()
    (precious / "file").write_text("")
    data = tmp_path / "data"
    data.mkdir()
    (data / "run").symlink_to(precious)
    DataDirectory(data).close()
    assert (precious / "file").exists()


@pytest.mark.parametrize("name", ["lock", "run.lock"])
def test_locks_of_dying_processes_are_waited_for(tmp_path: Path, name: str) -> None:
    """A killed supervisor, or a child that outlives it for a moment, delays the next start."""
    DataDirectory(tmp_path).close()
    holder = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read(1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        threading.Timer(0.3, child.kill).start()
        began = time.monotonic()
        DataDirectory(tmp_path).close()
        assert time.monotonic() - began > 0.2


def test_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """One sentence with the path and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="file/data is not writable: Not a directory"):
        DataDirectory(tmp_path / "file" / "data")
    (tmp_path / "lock").mkdir()
    with pytest.raises(StartError, match="is not writable: Is a directory"):
        DataDirectory(tmp_path)
