"""Kestrel's journals: the operations of one file. Reads bytes, and knows neither queues nor directories.

A journal is a sequence of operations, each an opcode of one byte and what belongs to it. Numbers are little-endian. An
operation is whole or torn: a server that dies in the middle of a write leaves a torn one at the end of the file.

Source: docs/journal_format.md and Journal.scala of Kestrel 2.4. Where they differ the program counts: it writes 8 as
CONTINUE, which the document calls STATE_DUMP, and 9 as REMOVE_TENTATIVE with a transaction, which it does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO, Final

from gateway.common.counted import counted

LIBKESTREL_MAGIC: Final = b"\x27\x64\x26\x03"
"""How a journal of Kestrel 3 begins. Source: libkestrel, JournalFile.scala."""

_INT: Final = struct.Struct("<i")
_XID_AND_SIZE: Final = struct.Struct("<ii")
_TIMES: Final = struct.Struct("<qq")


class Opcode(IntEnum):
    """The operations. ADD and REMOVE_TENTATIVE are those of older versions."""

    ADD = 0
    REMOVE = 1
    ADDX = 2
    REMOVE_TENTATIVE = 3
    SAVE_XID = 4
    UNREMOVE = 5
    CONFIRM_REMOVE = 6
    ADD_XID = 7
    CONTINUE = 8
    REMOVE_TENTATIVE_XID = 9


_WITH_XID: Final = frozenset(
    {Opcode.SAVE_XID, Opcode.UNREMOVE, Opcode.CONFIRM_REMOVE, Opcode.REMOVE_TENTATIVE_XID},
)
_KNOWN: Final = frozenset(map(int, Opcode))


@dataclass(frozen=True, slots=True)
class JournalOperation:
    """xid: of the transaction; 0 if the operation names none. The item, if it has one, is at data_at in the file.

    expires_ms: wall time; 0: never.
    """

    opcode: Opcode
    xid: int = 0
    data_at: int = 0
    data_bytes: int = 0
    expires_ms: int = 0


class JournalDamage(Exception):
    """What follows at `position` cannot be read. torn: the file ends within an operation."""

    def __init__(self, position: int, what: str, *, torn: bool) -> None:
        super().__init__(what)
        self.position = position
        self.torn = torn


def operations(file: BinaryIO, size: int) -> Iterator[JournalOperation]:
    """The operations of the first `size` bytes. The bytes of the items are skipped. Raises JournalDamage, OSError."""
    at = 0
    while at < size:
        code = file.read(1)[0]
        if code not in _KNOWN:
            what = f"{code} is not an operation"
            if at == 0 and code == LIBKESTREL_MAGIC[0]:
                what = "the file is a journal of Kestrel 3, which this command cannot read"
            raise JournalDamage(at, what, torn=False)
        operation, end = _operation(file, Opcode(code), at, size)
        yield operation
        at = end


def _operation(file: BinaryIO, opcode: Opcode, at: int, size: int) -> tuple[JournalOperation, int]:
    """The operation at `at`, whose opcode was read, and where the next one begins."""
    if opcode in (Opcode.REMOVE, Opcode.REMOVE_TENTATIVE):
        return JournalOperation(opcode), at + 1
    if opcode in _WITH_XID:
        (xid,) = _INT.unpack(_read(file, _INT.size, at, size))
        return JournalOperation(opcode, xid), at + 1 + _INT.size
    xid = 0
    head = 1 + _INT.size
    if opcode in (Opcode.ADD_XID, Opcode.CONTINUE):
        xid, block = _XID_AND_SIZE.unpack(_read(file, _XID_AND_SIZE.size, at, size))
        head = 1 + _XID_AND_SIZE.size
    else:
        (block,) = _INT.unpack(_read(file, _INT.size, at, size))
    times = _INT.size if opcode is Opcode.ADD else _TIMES.size
    if block < times:
        raise JournalDamage(at, f"{block} is not the size of an item", torn=False)
    end = at + head + block
    if end > size:
        raise JournalDamage(at, f"the file ends within an item of {counted(block, 'byte')}", torn=True)
    if opcode is Opcode.ADD:
        expires_ms = 1000 * int(_INT.unpack(_read(file, times, at, size))[0])
    else:
        expires_ms = _TIMES.unpack(_read(file, times, at, size))[1]
    file.seek(end)
    return JournalOperation(opcode, xid, at + head + times, block - times, expires_ms), end


def _read(file: BinaryIO, count: int, at: int, size: int) -> bytes:
    data = file.read(min(count, max(size - file.tell(), 0)))
    if len(data) < count:
        raise JournalDamage(at, "the file ends within an operation", torn=True)
    return data
