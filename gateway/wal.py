"""What can be known of an SQLite log (`-wal`) that a killed process left: whether SQLite will drop commits it held.

Reads headers only, knows no tables. Sources: https://www.sqlite.org/fileformat2.html#walformat and
https://www.sqlite.org/walformat.html ("The WAL-Index Header").

SQLite takes a log up to its first damaged frame and forgets the rest without a word. Two things tell of a loss:

1. Frames of the present round carry the header's salts, and the last frame of each commit says so: one of those behind
   what SQLite took is a lost commit.
2. The mark, a small file beside the database, says how far the log had got after the last commit. It is not synced, so
   it survives a killed process; after a power cut it may be older than the log, never newer than what was synced. It
   tells also where the last frame is damaged, or the log is cut off or gone.
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
    """How far a log has got. salts: of its present round, as in its header; frames: the last one that is committed."""

    salts: bytes
    frames: int


class Mark:
    """The mark of one open database. One process may have several, several processes may write it in turn.

    Both files are mapped: a commit costs a copy of 16 bytes, and no system call.
    """

    def __init__(self, database: Path) -> None:
        """`database` is open in this process, in WAL mode. Raises OSError, ValueError."""
        # Closing any descriptor of the index would free SQLite's own locks on it: `close` comes after SQLite's.
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
        """To be called after a commit."""
        head = self._index[:]
        if head[: _INDEX.size] != head[_INDEX.size :]:
            return  # another process is writing: its own mark will be later than this one
        if head[:4] == _INDEX_VERSION:
            body = head[32:40] + head[16:20]
            self._mark[:] = body + crc32(body).to_bytes(4, "big")

    def clear(self) -> None:
        """The log is about to be folded into the database in order, or was looked at."""
        self._mark[:] = bytes(_MARK.size)

    def close(self) -> None:
        """To be called after the database is closed."""
        self._undo.close()


def forget(database: Path) -> None:
    """Clears the mark where the log is gone: its last user has folded it into the database. Raises OSError."""
    if not database.with_name(f"{database.name}-wal").exists():
        with contextlib.suppress(FileNotFoundError), _mark_path(database).open("r+b") as file:
            file.write(bytes(_MARK.size))


def marked(database: Path) -> Position | None:
    """Where the log was after the last commit; None where no mark was left, or it is damaged. Raises OSError."""
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
    """How many frames of its log SQLite should take, as far as log and mark show. Call it before the database is open.

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
    return frames  # the next round had just begun


def committed(database: Path) -> int | None:
    """How many frames SQLite has taken of the log of a database that is open, and was read, in this process.

    None where it does not say. Raises OSError.
    """
    # Opened and closed beside SQLite's own descriptor: only for a reader, which holds no lock that matters then.
    with contextlib.suppress(FileNotFoundError):
        head = Path(f"{database}-shm").read_bytes()[: _INDEX.size]
        if len(head) == _INDEX.size:
            return int(_INDEX.unpack(head)[6])
    return None


def _mark_path(database: Path) -> Path:
    return database.with_name(f"{database.name}-mark")


def _salts(log: Path) -> bytes | None:
    """The salts of a log's header; None where there is no log, or its header is damaged. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) == _HEADER.size and _is_sound(head):
            return head[16:24]
    return None


def last_commit(path: Path) -> int:
    """The number of the last frame that ends a commit, damaged ones before it or not; 0 when there is none.

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
        if not _is_sound(head):  # then nothing of it is taken: what the frames themselves say is all there is to go by
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
