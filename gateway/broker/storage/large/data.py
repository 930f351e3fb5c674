"""The bytes of a large item on their way to disk: which part is next. No I/O."""

from __future__ import annotations

from zlib import crc32

from gateway.broker.storage.large.format import PART_BYTES, Reference


class LargeData:
    """The bytes of a large item on their way to disk. One part at a time is with the writer.

    number: of its parts; 0 until the first is on disk.
    """

    __slots__ = ("_sum", "data", "number", "written")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.number = 0
        self.written = 0
        self._sum = 0

    def __repr__(self) -> str:
        return f"<LargeData {self.number}: {self.written} of {len(self.data)} bytes>"

    @property
    def complete(self) -> bool:
        """Whether every part is on disk."""
        return self.written == len(self.data)

    @property
    def place(self) -> int:
        """Of the next part."""
        return self.written // PART_BYTES

    def part(self) -> memoryview:
        """The next part."""
        return memoryview(self.data)[self.written : self.written + PART_BYTES]

    def wrote(self, number: int, part: memoryview) -> None:
        """The part is on disk, under this number."""
        self.number = number
        self._sum = crc32(part, self._sum)
        self.written += len(part)

    @property
    def reference(self) -> Reference:
        """Of the complete item."""
        return Reference(self.number, len(self.data), self._sum)
