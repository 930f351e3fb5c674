"""The payloads of messages: values to bytes and back. No I/O. See docs/broker.md for their meaning."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from gateway.common.counted import counted

from .frames import PAYLOAD_BYTES, BrokenFrameError

VERSIONS: Final = (1, 1)
"""The lowest and the highest version of the protocol that this program speaks."""
_MAGIC: Final = b"kgateway"
_GREETING: Final = struct.Struct(">8sHHQQQQQI")
_CREDIT: Final = struct.Struct(">QQ")
_OPEN: Final = struct.Struct(">IHIHQB")
_ENTRY: Final = struct.Struct(">II")
_ID: Final = struct.Struct(">Q")
_ID_BYTES: Final = _ID.size
MOST_IDS: Final = PAYLOAD_BYTES // _ID_BYTES
"""The most reads in one CONFIRM or ABORT."""
MOST_KEY_BYTES: Final = 255

SHARE_UNITS: Final = 1_000_000
"""The whole, as the share of a tenant in a greeting."""

PutEntry: TypeAlias = tuple[int, bytes]
"""Expiry in seconds as in `set`, and item."""


class Code(IntEnum):
    """The outcome of an operation, or of one of its items.

    EMPTY, CANCELLED: of an open. FULL, TOO_LARGE: the queue does not accept the item. REFUSED: nothing was done,
    because of the status or of the disk; the text says why. FAILED: the read that the open names was not confirmed.
    UNKNOWN: there is no such read. ILLEGAL_NAME: no queue can have it. CAPPED: the queue has as many open reads on this
    connection as the open allows. NO_ROOM: the open items of the worker, or of the tenant, may have no more bytes.
    """

    OK = 0
    EMPTY = 1
    CANCELLED = 2
    FULL = 3
    TOO_LARGE = 4
    REFUSED = 5
    FAILED = 6
    UNKNOWN = 7
    ILLEGAL_NAME = 8
    CAPPED = 9
    NO_ROOM = 10


class Greeting(NamedTuple):
    """The first frame of each side. Its format is the same in every version.

    item_bytes, operation_bytes: the credit that it gives at the start. largest_bytes, incomplete_bytes: of items that
    it accepts, see FrameDecoder. open_bytes: the most bytes of its open items; 0: no limit. share: the part of the
    unused rest that one tenant may have, in millionths.
    """

    lowest: int
    highest: int
    item_bytes: int
    operation_bytes: int
    largest_bytes: int
    incomplete_bytes: int
    open_bytes: int = 0
    share: int = SHARE_UNITS

    def pack(self) -> bytes:
        return _GREETING.pack(_MAGIC, *self)

    def common_version(self, other: Greeting) -> int | None:
        """The highest version that both speak, or None."""
        highest = min(self.highest, other.highest)
        return highest if highest >= max(self.lowest, other.lowest) else None


class Opening(NamedTuple):
    """An open: up to `items` items of `key`, together at most `limit_bytes` unless it is one.

    wait_ms: how long it waits for the first one; 0: not at all. cap: the most open reads of the queue on this
    connection; 0: no limit. after: the id of an open read whose confirm comes later and must succeed first; 0: none.
    tenant: for whom the bytes of the items count, see Greeting.
    """

    key: bytes
    wait_ms: int = 0
    items: int = 1
    limit_bytes: int = 2**32 - 1
    cap: int = 0
    after: int = 0
    tenant: str = ""

    def pack(self) -> bytes:
        return pack_opening(*self)


def pack_opening(  # noqa: PLR0917 (the fields of an Opening)
    key: bytes,
    wait_ms: int = 0,
    items: int = 1,
    limit_bytes: int = 2**32 - 1,
    cap: int = 0,
    after: int = 0,
    tenant: str = "",
) -> bytes:
    """The payload of an OPEN, without an Opening."""
    name = tenant.encode()
    return _OPEN.pack(wait_ms, items, limit_bytes, cap, after, len(name)) + name + key


def unpack_greeting(payload: bytes) -> Greeting:
    """Raises BrokenFrameError. A later version may append to it."""
    if len(payload) < _GREETING.size or not payload.startswith(_MAGIC):
        raise BrokenFrameError("the first frame is not a greeting")
    return Greeting(*_GREETING.unpack_from(payload)[1:])


def pack_credit(item_bytes: int, operation_bytes: int) -> bytes:
    return _CREDIT.pack(item_bytes, operation_bytes)


def unpack_credit(payload: bytes) -> tuple[int, int]:
    """Bytes of items, bytes of operations. Raises BrokenFrameError."""
    if len(payload) != _CREDIT.size:
        raise BrokenFrameError(f"a credit has {counted(len(payload), 'byte')}, not {_CREDIT.size}")
    items, operations = _CREDIT.unpack(payload)
    return items, operations


def unpack_opening(payload: bytes) -> Opening:
    """Raises BrokenFrameError."""
    if len(payload) < _OPEN.size:
        raise BrokenFrameError(f"an open has {counted(len(payload), 'byte')}")
    wait_ms, items, limit_bytes, cap, after, size = _OPEN.unpack_from(payload)
    if not items:
        raise BrokenFrameError("an open wants no item")
    at = _OPEN.size + size
    if len(payload) < at:
        raise BrokenFrameError(f"an open has {counted(len(payload), 'byte')}, not the {at} of its tenant")
    try:
        tenant = payload[_OPEN.size : at].decode()
    except UnicodeDecodeError as error:
        raise BrokenFrameError("the tenant of an open is not UTF-8") from error
    return Opening(payload[at:], wait_ms, items, limit_bytes, cap, after, tenant)


def pack_ids(ids: Sequence[int]) -> bytes:
    """At most MOST_IDS."""
    return struct.pack(f">{len(ids)}Q", *ids)


def unpack_ids(payload: bytes) -> tuple[int, ...]:
    """Raises BrokenFrameError."""
    if len(payload) == _ID_BYTES:
        return _ID.unpack(payload)
    count, rest = divmod(len(payload), _ID_BYTES)
    if rest or not count:
        raise BrokenFrameError(f"{counted(len(payload), 'byte')} are no list of ids")
    return struct.unpack(f">{count}Q", payload)


ENTRY_BYTES: Final = _ENTRY.size
"""What an item takes in the payload of a PUT, beside its bytes."""


def put_bytes(key: bytes, sizes: Sequence[int]) -> int:
    """The size of a PUT's payload with items of these sizes."""
    return 1 + len(key) + ENTRY_BYTES * len(sizes) + sum(sizes)


def pack_put(key: bytes, entries: Sequence[PutEntry]) -> bytes:
    """The payload of a PUT with its items."""
    parts = [bytes((len(key),)), key]
    for expiry, data in entries:
        parts += (_ENTRY.pack(expiry, len(data)), data)
    return b"".join(parts)


def pack_detached_put(key: bytes, expiry: int, size: int) -> bytes:
    """The payload of a PUT whose only item, of `size` bytes, comes in DATA frames."""
    return bytes((len(key),)) + key + _ENTRY.pack(expiry, size)


def unpack_put(payload: bytes, item: bytes | None) -> tuple[bytes, list[PutEntry]]:
    """Key and items. `item`: of a detached PUT. Raises BrokenFrameError."""
    at = 1 + payload[0] if payload else 0
    end = len(payload)
    key = payload[1:at]
    entries: list[PutEntry] = []
    while at + _ENTRY.size <= end:
        expiry, size = _ENTRY.unpack_from(payload, at)
        at += _ENTRY.size
        if item is None:
            data = payload[at : at + size]
            at += size
        else:
            data = item
        if len(data) != size:
            raise BrokenFrameError(f"an item has {counted(len(data), 'byte')}, not {size}")
        entries.append((expiry, data))
    if at != end or not entries or (item is not None and len(entries) != 1):
        raise BrokenFrameError("a put is not a key and its items")
    return key, entries


def pack_outcome(codes: Sequence[Code], text: str = "") -> bytes:
    """The payload of DONE and END: empty if everything succeeded, otherwise one code each and why; of a CHECK of one
    read whose item expires, the code and when (`pack_expiry`)."""
    if not any(codes) and not text:
        return b""
    room = PAYLOAD_BYTES - len(codes)
    return bytes(codes) + text.encode("utf-8", "replace")[:room]


def pack_expiry(expires_ms: int) -> str:
    """The text of an outcome: Unix time in milliseconds; 0: never."""
    return str(expires_ms) if expires_ms else ""


def unpack_expiry(text: str) -> int | None:
    """None if the text says no time."""
    return int(text) if text.isascii() and text.isdigit() else None


def unpack_outcome(payload: bytes, count: int) -> tuple[list[Code], str]:
    """One code for each of `count`, and why. Raises BrokenFrameError."""
    if not payload:
        return [Code.OK] * count, ""
    try:
        codes = [Code(each) for each in payload[:count]]
    except ValueError as exc:
        raise BrokenFrameError(str(exc)) from exc
    if len(codes) != count:
        raise BrokenFrameError(f"{len(codes)} outcomes of {count}")
    return codes, payload[count:].decode("utf-8", "replace")
