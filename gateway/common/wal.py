"""Detects whether SQLite will drop commits from a log (`-wal`) that a killed process left.

Reads headers only and knows no tables. Sources: https://www.sqlite.org/fileformat2.html#walformat and
https://www.sqlite.org/walformat.html ("The WAL-Index Header").

SQLite uses a log up to its first damaged frame and silently drops the rest. Two facts reveal such a loss:

1. Frames of the current round carry the salts of the header, and the last frame of each commit is marked. A marked
   frame after the last one that SQLite used is a lost commit.
2. The mark, a small file next to the database, holds the length of the log after the last commit. It is not synced: it
   survives a killed process. After a power cut it may be older than the log, but never newer than what was synced. It
   also reveals that the last frame is damaged, or that the log is cut off or missing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

_HEADER = struct.Struct(">8I")  # magic, format, page size, checkpoint number, two salts, two checksums
_FRAME = struct.Struct(">6I")  # page, pages in the file after a commit (0: no commit), two salts, two checksums
_MAGIC = 0x377F0682  # its last bit: the checksums' byte order is big-endian


_INDEX = struct.Struct("=3IBBHII2I8s2I")  # version, -, change, is set up, big-endian, page size, frames, pages, ...
_INDEX_VERSION = (3007000).to_bytes(4, sys.byteorder)
_MARK = struct.Struct("=8s4s4s")  # the header's salts, frames (as the index has them), checksum of these


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log has got. salts: of its current round, from the header; frames: the last committed frame."""

    salts: bytes
    frames: int


class Mark:
    """The mark of one open database. A process may have several marks; several processes may write one in turn.

    Both files are mapped into memory: a commit costs a copy of 16 bytes and no system call.
    """

    def __init__(self, database: Path) -> None:
        """`database` is open in this process, in WAL mode. Raises OSError, ValueError."""
        # Closing any descriptor of the index releases SQLite's own locks on it, so `close` comes after SQLite's.
        with contextlib.ExitStack() as undo:
            index = os.open(f"{database}-shm", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, index)
            mark = os.open(_mark_path(database), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, mark)
            if os.fstat(mark).st_size < _MARK.size:
                os.ftruncate(mark, _MARK.size)
            self._index = undo.enter_context(mmap.mmap(index, 2 * _INDEX.size, prot=mmap.PROT_READ))
            self._mark = undo.enter_context(mmap.mmap(mark, _MARK.size))
            self._undo = undo.pop_all()

    def write(self) -> None:
        """Call it after each commit."""
        head = self._index[:]
        if head[: _INDEX.size] != head[_INDEX.size :]:
            return  # another process is writing; its mark will be later than this one
        if head[:4] == _INDEX_VERSION:
            body = head[32:40] + head[16:20]
            self._mark[:] = body + crc32(body).to_bytes(4, "big")

    def clear(self) -> None:
        """Call it before the log is checkpointed into the database in order, or after the log was checked."""
        self._mark[:] = bytes(_MARK.size)

    def close(self) -> None:
        """Call it after the database is closed."""
        self._undo.close()


def forget(database: Path) -> None:
    """Clears the mark if the log is gone because its last user checkpointed it into the database. Raises OSError."""
    if not database.with_name(f"{database.name}-wal").exists():
        with contextlib.suppress(FileNotFoundError), _mark_path(database).open("r+b") as file:
            file.write(bytes(_MARK.size))


def marked(database: Path) -> Position | None:
    """The length of the log after the last commit; None without a mark, or if it is damaged. Raises OSError."""
    try:
        found = _mark_path(database).read_bytes()
    except FileNotFoundError:
        return None
    if len(found) != _MARK.size:
        return None
    salts, frames, checksum = _MARK.unpack(found)
    if crc32(found[:12]).to_bytes(4, "big") != checksum:
        return None
    return Position(salts, int.from_bytes(frames, sys.byteorder))


def expected(database: Path) -> int:
    """How many frames of its log SQLite should use, judged by log and mark. Call it before the database is open.

    Raises OSError.
    """
    log = database.with_name(f"{database.name}-wal")
    position = marked(database)
    frames = last_commit(log)
    if position is None:
        return frames
    salts = _salts(log)
    if salts is None or salts == position.salts:
        return max(frames, position.frames)
    return frames  # a new round had just begun


def committed(database: Path) -> int | None:
    """How many frames SQLite has used of the log of a database that this process has open and has read.

    None if SQLite does not tell. Raises OSError.
    """
    # Opened and closed in addition to SQLite's descriptor. That is safe only for a reader, which holds no lock now.
    with contextlib.suppress(FileNotFoundError):
        head = Path(f"{database}-shm").read_bytes()[: _INDEX.size]
        if len(head) == _INDEX.size:
            return int(_INDEX.unpack(head)[6])
    return None


def _mark_path(database: Path) -> Path:
    return database.with_name(f"{database.name}-mark")


def _salts(log: Path) -> bytes | None:
    """The salts of a log's header; None without a log, or if its header is damaged. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) == _HEADER.size and _is_sound(head):
            return head[16:24]
    return None


def last_commit(path: Path) -> int:
    """The number of the last frame that ends a commit, even after damaged frames; 0 if there is none.

    Raises OSError.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return 0
        _, _, page_bytes, _, *salts, _, _ = _HEADER.unpack(head)
        if not _is_sound(head):  # SQLite uses nothing of this log, so only the frames themselves tell
            page_bytes, salts = page_bytes if 512 <= page_bytes <= 65536 else 4096, []
        found = number = 0
        while len(frame := file.read(_FRAME.size)) == _FRAME.size:
            number += 1
            _, pages, *its_salts, _, _ = _FRAME.unpack(frame)
            salts = salts or its_salts
            if pages and its_salts == salts:
                found = number
            file.seek(page_bytes, 1)
        return found


def _is_sound(head: bytes) -> bool:
    magic = int.from_bytes(head[:4], "big")
    if magic & ~1 != _MAGIC:
        return False
    first = second = 0
    words = struct.unpack((">" if magic & 1 else "<") + "6I", head[:24])
    for i in range(0, 6, 2):
        first = (first + words[i] + second) & 0xFFFFFFFF
        second = (second + words[i + 1] + first) & 0xFFFFFFFF
    return struct.unpack(">2I", head[24:]) == (first, second)
