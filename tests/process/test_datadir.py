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


def mode(path: Path) -> int:
    """Its permission bits."""
    return path.stat().st_mode & 0o777


def test_everything_is_private_and_the_key_stays(tmp_path: Path) -> None:
    """0700, 0600, and the same key at the next start."""
    before = os.umask(0)
    try:
        first = DataDirectory(tmp_path / "a" / "data")
    finally:
        os.umask(before)
    assert mode(first.path) == 0o700
    assert mode(first.run_dir) == 0o700
    assert mode(first.path / "lease.key") == 0o600
    assert len(first.lease_key) == KEY_BYTES
    first.close()
    second = DataDirectory(tmp_path / "a" / "data")
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


def test_stale_sockets_are_removed(tmp_path: Path) -> None:
    """What a killed gateway left in run/ is not in the way."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "broker.sock").write_text("")
    data = DataDirectory(tmp_path)
    assert list(data.run_dir.iterdir()) == []
    data.close()


@pytest.mark.parametrize("over", [False, True])
def test_run_directory_is_as_near_as_a_socket_allows(tmp_path: Path, over: bool) -> None:
    """Exactly up to the bound it lies in the data directory, one byte more and it is a temporary one."""
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


def test_locks_of_dying_children_are_waited_for(tmp_path: Path) -> None:
    """A child that outlives its supervisor for a moment delays the next start."""
    DataDirectory(tmp_path).close()
    holder = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read(1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path / "run.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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
