"""Which queues of a list are shown, in which order, and where the next page begins. Pure.

A filter is `items>100`, `age>=60`, `name=emails` or `name~img-*`; several filters must all match. A page is sorted by
one field, up or down, and equal ones by name, upwards.

1. By name, the next page begins after the last name: a queue that is created or deleted does not move another one to
   another page.
2. By a figure, all pages keep the order of the first one, whatever the figures become: each queue that continues to
   exist is shown once, and a later one is not shown. That holds for the MAX_AHEAD queues that a cursor names. Beyond
   those, the figures at the time decide which queues come next. Ages that only grow are not changes: of an age and the
   time of its list, both in whole milliseconds, the difference is the same in every list.
3. The pages end: together they show no more queues than there were at the first page.
"""

from __future__ import annotations

import heapq
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlencode

from gateway.api.response import cursor as cursors
from gateway.api.response.cursor import Cursor, mark
from gateway.errors import InvalidParameter
from gateway.fairness.turns import Turns
from gateway.names import glob

FIELDS: Final = {
    "items": "items",
    "bytes": "bytes",
    "age": "age_s",
    "age_s": "age_s",
    "open_reads": "open_reads",
    "backlog": "backlog",
    "waiters": "waiters",
    "total_items": "total_items",
    "expired_items": "expired_items",
    "discarded_items": "discarded_items",
    "dead_letters": "dead_letters",
}
"""The fields that may be compared, each with its member in the answer."""

SORTED_AT_ONCE: Final = 500

_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_FILTER: Final = re.compile(r"([a-z_]+)(>=|<=|!=|>|<|=|~)(.+)")


class QueueFigures(Protocol):
    """A queue that can be listed: its name, and every figure in FIELDS."""

    @property
    def queue(self) -> str: ...


Figures = TypeVar("Figures", bound=QueueFigures)


class Listing:
    """What a caller asked for. filters, sort, cursor: as in openapi.yaml; limit: queues per page.

    Raises: InvalidParameter, if a filter, the order or the cursor is invalid.
    """

    def __init__(self, filters: tuple[str, ...], sort: str, limit: int, cursor: str | None) -> None:
        self._filters, self._sort, self._limit = filters, sort, limit
        self._tests = [queue_filter(text) for text in filters]
        self._order = SortOrder.of(sort)
        self._begin = cursors.read(cursor, self._order.name) if cursor is not None else None

    async def page(
        self, queues: Iterable[Figures], turns: Turns, tenant: str = "", *, at_s: float
    ) -> tuple[Sequence[Figures], str | None]:
        """The queues of one page, and the cursor of the next page or None. tenant: the tenant whose turns it takes.

        at_s: the Unix time of the ages.
        """
        tests, order, begin = self._tests, self._order, self._begin
        found = [queue async for queue in turns.slices(queues, tenant) if all(test(queue) for test in tests)]
        ahead, rest = await order.divide(found, begin, at_s, turns, tenant)
        found = ahead + rest
        left = len(found) if begin is None or order.by_name else begin.left
        shown, found = found[: min(left, self._limit)], found[min(left, self._limit) :]
        left -= len(shown)
        if not found or not left:
            return shown, None
        if order.by_name:
            return shown, Cursor(order.name, 0, 0.0, 0.0, shown[-1].queue, (), more=True).text
        named = found[: cursors.MAX_AHEAD]
        more = len(found) > len(named) or bool(begin and begin.more)
        if begin is not None and len(shown) + len(named) <= len(ahead):
            at_s, value, name = begin.at_s, begin.value, begin.name
        else:
            value, name = order.value(named[-1]), named[-1].queue
        marks = tuple(mark(queue.queue) for queue in named)
        return shown, Cursor(order.name, left, at_s, value, name, marks, more).text

    def link(self, cursor: str) -> str:
        """The query string for the page after `cursor`."""
        filters = [("filter", text) for text in self._filters]
        return urlencode([*filters, ("sort", self._sort), ("limit", self._limit), ("cursor", cursor)])


@dataclass(frozen=True, slots=True)
class SortOrder:
    """The order of a list. field: of FIELDS, or name."""

    field: str
    down: bool

    @classmethod
    def of(cls, sort: str) -> SortOrder:
        """Raises InvalidParameter."""
        field = sort.removeprefix("-")
        if field != "name" and field not in FIELDS:
            raise InvalidParameter(f"sort: unknown field {field[:40]!r}; the fields are name, {', '.join(FIELDS)}")
        return cls(FIELDS.get(field, field), sort.startswith("-"))

    @property
    def name(self) -> str:
        """The normal form: the same for all spellings of the same order."""
        return "-" * self.down + self.field

    @property
    def by_name(self) -> bool:
        return self.field == "name"

    def value(self, queue: QueueFigures) -> float:
        """Its figure; 0 in an order by name."""
        return 0.0 if self.by_name else float(getattr(queue, self.field))

    def place(self, queue: QueueFigures) -> tuple[float, str]:
        """The key of a figure's order, which is ascending: a descending order negates the figure, not the name."""
        return (-self.value(queue) if self.down else self.value(queue)), queue.queue

    async def divide(
        self, found: Sequence[Figures], begin: Cursor | None, at_s: float, turns: Turns, tenant: str
    ) -> tuple[list[Figures], list[Figures]]:
        """The queues that the cursor names, and those after its position, both sorted. at_s: the time of the ages."""
        if begin is None:
            return [], await self._sorted(found, turns, tenant)
        by_mark: dict[bytes, Figures] = {}
        if begin.ahead:
            by_mark = {mark(queue.queue): queue async for queue in turns.slices(found, tenant)}
        ahead = [by_mark.pop(each) for each in begin.ahead if each in by_mark]
        if not begin.more:
            return ahead, []
        value = begin.value
        if self.field == "age_s" and value:  # a queue without waiting jobs has the age 0, and grows no older
            value = (_ms(at_s) - _ms(begin.at_s) + _ms(value)) / 1000
        last = (-value if self.down else value, begin.name)
        named = {queue.queue for queue in ahead}
        rest = [
            queue
            async for queue in turns.slices(found, tenant)
            if queue.queue not in named and self._after(queue, last)
        ]
        return ahead, await self._sorted(rest, turns, tenant)

    def _after(self, queue: QueueFigures, last: tuple[float, str]) -> bool:
        return self.place(queue) < last if self._reversed else self.place(queue) > last

    @property
    def _reversed(self) -> bool:
        return self.by_name and self.down

    async def _sorted(self, queues: Sequence[Figures], turns: Turns, tenant: str) -> list[Figures]:
        """The sorted queues, merged from pieces of SORTED_AT_ONCE."""
        starts = range(0, len(queues), SORTED_AT_ONCE)
        pieces = (
            sorted(queues[start : start + SORTED_AT_ONCE], key=self.place, reverse=self._reversed) for start in starts
        )
        each = heapq.merge(*await turns.all(pieces, tenant), key=self.place, reverse=self._reversed)
        return await turns.all(each, tenant)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def queue_filter(text: str) -> Callable[[QueueFigures], bool]:
    """Whether a queue matches a filter. Raises InvalidParameter."""
    parts = _FILTER.fullmatch(text)
    if parts is None:
        raise InvalidParameter(
            f"filter: {text[:80]!r} is not a field, a comparison and a value without spaces, such as items>100"
        )
    field, compare, value = parts.groups()
    if field == "name":
        if compare == "~" and glob.QUEUES.fullmatch(value):
            return lambda queue: glob.matches(value, queue.queue)
        if compare == "=":
            return lambda queue: queue.queue == value
        raise InvalidParameter(f"filter: {text[:80]!r}: compare a name with `=`, or with `~` and a pattern of * and ?")
    if field not in FIELDS:
        raise InvalidParameter(f"filter: unknown field {field[:40]!r}; the fields are name, {', '.join(FIELDS)}")
    if compare == "~":
        raise InvalidParameter(f"filter: {field} is a number; compare it with > >= < <= = !=")
    if not re.fullmatch(r"[0-9]{1,15}(?:\.[0-9]{1,6})?", value, re.ASCII):
        raise InvalidParameter(f"filter: {value[:40]!r} is not a number, such as 20 or 0.5")
    number, member, holds = float(value), FIELDS[field], _COMPARE[compare]
    return lambda queue: holds(getattr(queue, member), number)
