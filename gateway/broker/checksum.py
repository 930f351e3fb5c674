"""The checksums of rows. CRC-32, of the standard library, over every field that decides what is delivered and where.

CRC-32 finds each change of up to 32 neighbouring bits, so each changed byte, and misses other damage once in 4 billion
rows. It guards against disks and memory, not against people: who may write the file may write the checksum.
Cost of `of_item`, by timeit: from 0.4 us on a quiet core to 2.1 us on a busy machine for 200 bytes, 0.3 to 1.1 ms for
1 MiB.
"""

from __future__ import annotations

from struct import Struct
from zlib import crc32

_ITEM = Struct(">qqq")
_QUEUE = Struct(">qq?")


def seed(name: bytes) -> int:
    """What the checksums of a queue's items begin with: an item under another queue's name fails its check."""
    return crc32(name)


def of_item(seed_: int, id_: int, added_ms: int, expires_ms: int, data: bytes) -> int:
    """The checksum of an item's row. Flags are not kept (Kestrel drops them), so they are no field of it."""
    return crc32(data, crc32(_ITEM.pack(id_, added_ms, expires_ms), seed_))


def of_queue(number: int, name: bytes | None, unchecked: int) -> int:
    """The checksum of a queue's row. The counters are left out: each commit changes them, and they can be recounted."""
    return crc32(name or b"", crc32(_QUEUE.pack(number, unchecked, name is None)))
