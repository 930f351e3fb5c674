"""Large items on disk: in parts, with a reference in place of their bytes. No I/O.

An item above LARGE_BYTES is written in parts, each in a transaction of its own, so that other commits wait for one part
and not for all of them. The last transaction writes its row in `items`; parts without such a row belong to no item. The
row has a reference instead of the bytes, so removing and moving the item are small changes; the parts are deleted
afterwards.

parts(id, data)                 id: the number of the reference, and in the lower 16 bits the place of the part.
unfinished(number, checksum)    the parts of these numbers belong to no item: they are being written or deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from zlib import crc32

LARGE_BYTES: Final = 2 << 20
"""Above the default limit of a job (1 MiB), also in base64: with default limits a file hardly ever needs format 3."""
PART_BYTES: Final = 1 << 19
"""One is written in about 4 ms, and a checkpoint of 10 to 20 ms follows every eighth. Smaller parts would cost as many
checkpoints, and more commits. A file may have parts of any size."""
PLACE_BITS: Final = 16
LAST_NUMBER: Final = 2**32 - 1
IS_LARGE: Final = "typeof(data) = 'text'"
"""In SQL: whether a row of `items` has a reference. An item's own bytes are always a BLOB."""
SIZE: Final = f"CASE WHEN {IS_LARGE} THEN CAST(substr(data, 11, 10) AS INTEGER) ELSE length(data) END"
"""In SQL: how many bytes an item has."""
SEAL: Final = b" in parts"
_REFERENCE_BYTES: Final = 40


@dataclass(frozen=True, slots=True)
class Reference:
    """What a row of `items` has in place of a large item's bytes. `sum`: their CRC-32."""

    number: int
    size: int
    sum: int

    @property
    def sealed(self) -> bytes:
        """What the checksum of the row is over. Not the text alone: one bit says whether it is text or bytes."""
        return self.pack() + SEAL

    def pack(self) -> bytes:
        """As it is stored, as text: three numbers and the CRC-32 over them, each with ten digits."""
        body = b"%010d%010d%010d" % (self.number, self.size, self.sum)
        return b"%b%010d" % (body, crc32(body))


def unpack(data: object) -> Reference | None:
    """The reference with these bytes; None if they are damaged."""
    if type(data) is not bytes or len(data) != _REFERENCE_BYTES or not data.isdigit():
        return None
    number, size, sum_, check = (int(data[at : at + 10]) for at in range(0, _REFERENCE_BYTES, 10))
    return Reference(number, size, sum_) if check == crc32(data[:30]) and 0 < number <= LAST_NUMBER else None


def part_id(number: int, place: int) -> int:
    """The key of a part."""
    return (number << PLACE_BITS) | place


def last_part_id(number: int) -> int:
    """No part of this number has a higher key."""
    return part_id(number, (1 << PLACE_BITS) - 1)


def of_number(number: int) -> int:
    """The checksum of a row of `unfinished`: a changed number would delete the parts of an item."""
    return crc32(b"%d" % number)
