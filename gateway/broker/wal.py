"""What a start can know of the log that a killed broker left: whether SQLite will drop commits that it holds.

Reads the file's headers only, never writes, and knows no tables. Source: https://www.sqlite.org/fileformat2.html#walformat

SQLite takes a log up to its first damaged frame and forgets the rest without a word. Frames of the present round carry
the header's salts, and the last one of each commit says so; one of those behind what SQLite took is a lost commit.
"""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = struct.Struct(">8I")  # magic, format, page size, checkpoint number, two salts, two checksums
_FRAME = struct.Struct(">6I")  # page, pages in the file after a commit (0: no commit), two salts, two checksums
_MAGIC = 0x377F0682  # its last bit: the checksums' byte order is big-endian


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
