"""Which queues of a list are shown, in which order, and where the next page begins. Pure.

A filter is `items>100`, `age>=60`, `name=emails` or `name~img-*`; several must all hold. A page is sorted by one field
and, where that is equal, by name; its cursor names the last queue shown by both, so that a queue that comes, goes or
changes meanwhile moves no other one across a page's edge.
"""

from __future__ import annotations

import math
import operator
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from gateway.contract import glob
from gateway.errors import InvalidParameter

FIELDS: Final = {
    "items": "items",
    "bytes": "bytes",
    "age": "age_s",
    "age_s": "age_s",
    "open_reads": "open_reads",
    "waiters": "waiters",
    "total_items": "total_items",
    "expired_items": "expired_items",
    "discarded_items": "discarded_items",
}
"""What may be compared, and the member of the answer that it is."""

_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_FILTER: Final = re.compile(r"([a-z_]+)(>=|<=|!=|>|<|=|~)(.+)")


class Figures(Protocol):
    """A queue that can be listed: its name, and every figure of FIELDS."""

    @property
    def queue(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Listing:
    """What a caller asked to see. filters, sort, cursor: as openapi.yaml has them; limit: queues a page."""

    filters: tuple[str, ...]
    sort: str
    limit: int
    cursor: str | None

    def page(self, queues: Iterable[Figures]) -> tuple[Sequence[Figures], str | None]:
        """The queues of one page, and the cursor of the next; None where there is none.

        Raises: InvalidParameter, where a filter, the order or the cursor cannot be read.
        """
        tests = [_test(text) for text in self.filters]
        down = self.sort.startswith("-")
        field = self.sort.removeprefix("-")
        if field != "name" and field not in FIELDS:
            raise InvalidParameter(f"sort: {field[:40]!r} is no field of a queue")
        begin = _read(self.cursor) if self.cursor is not None else None

        def place(queue: Figures) -> tuple[float, str]:
            return (float(getattr(queue, FIELDS[field])) if field != "name" else 0.0, queue.queue)

        def beyond(queue: Figures) -> bool:
            return begin is None or (place(queue) < begin if down else place(queue) > begin)

        found = [queue for queue in queues if beyond(queue) and all(test(queue) for test in tests)]
        found.sort(key=place, reverse=down)
        shown = found[: self.limit]
        return shown, _cursor(*place(shown[-1])) if len(found) > len(shown) else None

    def link(self, cursor: str) -> str:
        """The query string that asks for the page after `cursor`."""
        filters = [("filter", text) for text in self.filters]
        return urlencode([*filters, ("sort", self.sort), ("limit", self.limit), ("cursor", cursor)])


def _test(text: str) -> Callable[[Figures], bool]:
    parts = _FILTER.fullmatch(text)
    if parts is None:
        raise InvalidParameter(f"filter: {text[:80]!r} is not a field, a comparison and a value")
    field, compare, value = parts.groups()
    if field == "name":
        if compare == "~" and glob.PATTERN.fullmatch(value):
            return lambda queue: glob.matches(value, queue.queue)
        if compare == "=":
            return lambda queue: queue.queue == value
        raise InvalidParameter(
            f"filter: {text[:80]!r}: a name is compared by `=` or, with a pattern of * and ?, by `~`"
        )
    if field not in FIELDS or compare == "~":
        raise InvalidParameter(f"filter: {text[:80]!r}: numbers are {', '.join(FIELDS)}, compared by > >= < <= = !=")
    if not re.fullmatch(r"[0-9]{1,15}(?:\.[0-9]{1,6})?", value, re.ASCII):
        raise InvalidParameter(f"filter: {value[:40]!r} is not a number written as digits")
    number, member, holds = float(value), FIELDS[field], _COMPARE[compare]
    return lambda queue: holds(getattr(queue, member), number)


def _cursor(value: float, name: str) -> str:
    """Where a page ended, in hex: opaque to callers, and every text of that form is a place."""
    return (struct.pack(">d", value) + name.encode()).hex()


def _read(cursor: str) -> tuple[float, str]:
    try:
        raw = bytes.fromhex(cursor)
        value: float = struct.unpack(">d", raw[:8])[0]
    except (ValueError, struct.error) as exc:
        raise InvalidParameter("cursor: it was not given out here") from exc
    return (0.0 if math.isnan(value) else value), raw[8:].decode("latin-1")
