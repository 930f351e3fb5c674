"""The checksums of rows: CRC-32, from the standard library, over every field that affects delivery.

CRC-32 detects every change within 32 adjacent bits, so every changed byte, and misses other damage in one of 4 billion
rows. It protects against faults of disks and memory, not against people: a user who can change the file can change the
checksum. Cost of `of_item`, by timeit: from 0.4 us on an idle core to 2.1 us on a busy machine for 200 bytes, 0.3 to
1.1 ms for 1 MiB.
"""

from __future__ import annotations

from struct import Struct
from zlib import crc32

_ITEM = Struct(">qqq")
_QUEUE = Struct(">qq?")


def seed(name: bytes) -> int:
    """The start value of the checksums of a queue's items: an item under another queue's name fails its check."""
    return crc32(name)


def of_item(seed_: int, id_: int, added_ms: int, expires_ms: int, data: bytes) -> int:
    """The checksum of an item's row. Flags are not stored (Kestrel drops them), so they are not included."""
    return crc32(data, crc32(_ITEM.pack(id_, added_ms, expires_ms), seed_))


def of_queue(number: int, name: bytes | None, unchecked: int) -> int:
    """The checksum of a queue's row. Counters are not included: each commit changes them, and they can be recounted."""
    return crc32(name or b"", crc32(_QUEUE.pack(number, unchecked, name is None)))
