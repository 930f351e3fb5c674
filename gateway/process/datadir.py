"""The data directory: its locks, the lease key and the directory of private sockets. One supervisor uses it at a time.

{data}/lock        held by the supervisor
{data}/run.lock    held by the supervisor and its children, until the last of them is gone
{data}/lease.key   32 random bytes, mode 0600
{data}/run/        private Unix sockets, mode 0700; a link to a temporary directory if {data} is too long for a socket
{data}/...         the files of the embedded broker, which this module does not touch
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path
from typing import Final

from gateway.common import data_formats
from gateway.common.counted import counted
from gateway.common.locks import KILLED_WAIT_S, locked_within
from gateway.common.sync import sync
from gateway.files import make_directory, make_private

KEY_BYTES: Final = 32
# Files that earlier versions may have made readable by others.
FILES: Final = ("lock", "run.lock", "idempotency.db*", "broker.*")
# Source: unix(7): sun_path holds 108 bytes. A worker's socket name (boot id, `.sock`) takes 22, the NUL byte one.
SOCKET_PATH_BYTES: Final = 100
SOCKET_NAME_BYTES: Final = 22
CHILDREN_LOCK_WAIT_S: Final = 3.0
"""How long the children of a killed supervisor may take to end."""
TEMPORARY_PREFIX: Final = "kestrel-gateway-"


OTHERS: Final = 0o007
"""Rights of users other than the file's owner and group. The group may have rights: Kubernetes uses it with fsGroup."""


class StartError(Exception):
    """`serve` cannot start. The message is the one line that the operator reads."""


class UnusableDataError(StartError):
    """A file of the data directory has a newer format, or its rights do not allow its use. Another start fails in the
    same way."""


class DataDirectory:
    """One prepared, locked data directory. `close` releases it and removes temporary files."""

    def __init__(self, path: Path) -> None:
        """Prepares and locks `path`; creates it (0700) if it is missing. Raises StartError."""
        self.path = path
        try:
            self._is_new = not path.exists()
            make_directory(path)
            for pattern in FILES:
                for file in path.glob(pattern):
                    make_private(file)
            with contextlib.ExitStack() as undo:
                self._lock = undo.enter_context((path / "lock").open("a+", encoding="ascii"))
                self._children_lock = undo.enter_context((path / "run.lock").open("a", encoding="ascii"))
                self._take_locks()
                self.lease_key = self._key()
                self.run_dir = self._run_dir()
                undo.pop_all()
        except PermissionError as exc:
            raise UnusableDataError(f"data: {exc.filename or path} is not writable: {exc.strerror}") from exc
        except OSError as exc:
            raise StartError(f"data: {path} is not writable: {exc.strerror}") from exc

    @property
    def children_lock_fd(self) -> int:
        """The descriptor that every child inherits. The directory stays locked until the last of them is gone."""
        return self._children_lock.fileno()

    def close(self) -> None:
        """Removes the temporary directory, if there is one, and releases the locks."""
        self._remove_link()
        self._children_lock.close()
        self._lock.close()

    def discard(self) -> None:
        """Removes what this start has made, if it has made the directory: for a start that failed. Then `close` it."""
        if not self._is_new:
            return
        self._remove_link()
        for name in ("lock", "run.lock", "lease.key"):
            (self.path / name).unlink(missing_ok=True)
        for directory in (self.path / "run", self.path):
            with contextlib.suppress(OSError):  # it is kept if another process has put something into it
                directory.rmdir()

    def _take_locks(self) -> None:
        if not locked_within(KILLED_WAIT_S, self._lock.fileno()):
            self._lock.seek(0)
            owner = self._lock.read(20).strip()
            raise StartError(
                f"data: {self.path} is in use by another kestrel-gateway (pid {owner}); "
                "stop it, or choose another directory with --data"
            )
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()
        if not locked_within(CHILDREN_LOCK_WAIT_S, self._children_lock.fileno()):
            raise StartError(
                f"data: {self.path} is in use by processes of a kestrel-gateway that was killed; "
                "stop these processes, or choose another directory with --data"
            )

    def _key(self) -> bytes:
        path = self.path / "lease.key"
        try:
            with path.open("rb") as file:
                key, mode = file.read(KEY_BYTES + 1), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        except FileNotFoundError:
            return _write_new(path, secrets.token_bytes(KEY_BYTES))
        if len(key) != KEY_BYTES:
            raise StartError(
                f"data: {path} is damaged ({counted(len(key), 'byte')}, not {KEY_BYTES}); remove the file, and the "
                "next start makes a new one"
            )
        if mode & OTHERS:
            raise StartError(
                f"data: every user may read or write {path} (mode {mode:04o}), and the key in it can settle every job: "
                "remove the file, and the next start makes a new one; or chmod 600 it if no other user has read it"
            )
        return key

    def _run_dir(self) -> Path:
        link = (self.path / "run").absolute()
        self._remove_link()
        if len(os.fsencode(link)) + 1 + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES:
            link.mkdir(mode=0o700, exist_ok=True)
            link.chmod(0o700)
            for stale in link.glob("*.sock"):
                stale.unlink(missing_ok=True)
            return link
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(link)
        target = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
        link.symlink_to(target)
        return target

    def _remove_link(self) -> None:
        """Removes the temporary directory behind the link, also one that a killed supervisor left."""
        link = self.path / "run"
        if not link.is_symlink():
            return
        target = link.readlink()
        if target.name.startswith(TEMPORARY_PREFIX) and target.parent == Path(tempfile.gettempdir()):
            shutil.rmtree(target, ignore_errors=True)
        link.unlink()


def check_formats(data: Path, *, embedded: bool) -> None:
    """Raises UnusableDataError if a file that the gateway uses has a newer format. Its owner finds other damage.

    embedded: whether the jobs are in the directory.
    """
    with contextlib.suppress(OSError, sqlite3.Error):
        if (line := data_formats.refused(data, embedded=embedded)) is not None:
            raise UnusableDataError(f"data: {line}")


def _write_new(path: Path, content: bytes) -> bytes:
    """Writes the file completely or not at all, mode 0600; it is on disk before it gets its name."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp makes it 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return content
