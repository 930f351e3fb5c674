"""Writes journals byte by byte from docs/journal_format.md of Kestrel, and says by a plain model what they hold.

Nothing here is used by the program or knows how it reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ADDED_MS = 1_262_304_000_000


@dataclass(frozen=True)
class Op:
    """One operation: its name, its transaction, its item, and when that expires (milliseconds; 0: never)."""

    name: str
    xid: int = 0
    data: bytes = b""
    expires_ms: int = 0

    def encode(self) -> bytes:
        xid = struct.pack("<i", self.xid)
        item = struct.pack("<iqq", 16 + len(self.data), ADDED_MS, self.expires_ms) + self.data
        old = struct.pack("<ii", 4 + len(self.data), self.expires_ms // 1000) + self.data
        return {
            "add": b"\x00" + old,
            "remove": b"\x01",
            "addx": b"\x02" + item,
            "remove-tentative": b"\x03",
            "save-xid": b"\x04" + xid,
            "unremove": b"\x05" + xid,
            "confirm-remove": b"\x06" + xid,
            "add-xid": b"\x07" + xid + item,
            "continue": b"\x08" + xid + item,
            "remove-tentative-xid": b"\x09" + xid,
        }[self.name]


def encoded(ops: Iterable[Op]) -> bytes:
    return b"".join(op.encode() for op in ops)


def write(path: Path, ops: Iterable[Op], tail: bytes = b"") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encoded(ops) + tail)


def model(ops: Iterable[Op]) -> list[bytes]:
    """The items of the queue from its head on, after the operations and after open transactions are given back."""
    waiting: list[bytes] = []
    transactions: dict[int, bytes] = {}
    last = 0
    for op in ops:
        if op.name in ("add", "addx", "add-xid", "continue"):
            if op.name == "continue" and op.xid in transactions:
                del transactions[op.xid]
            waiting = [*waiting, op.data]
        elif op.name == "remove":
            waiting = waiting[1:]
        elif op.name in ("remove-tentative", "remove-tentative-xid"):
            if op.name == "remove-tentative":
                last += 1
                while last == 0 or last in transactions:
                    last += 1
            else:
                last = op.xid
            if waiting:
                transactions[last] = waiting[0]
                waiting = waiting[1:]
        elif op.name == "save-xid":
            last = op.xid
        elif op.xid in transactions:
            item = transactions.pop(op.xid)
            if op.name == "unremove":
                waiting = [item, *waiting]
    return [transactions[xid] for xid in sorted(transactions)] + waiting


def adds(count: int, start: int = 0, name: str = "job") -> list[Op]:
    return [Op("addx", data=b"%b %d" % (name.encode(), number)) for number in range(start, start + count)]
