"""Queue statistics from a server's lines. Pure: lines in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.queue_stats import COUNTED, QueueStats


@dataclass(frozen=True, slots=True)
class OpenReadCounts:
    """The open reads of one queue, of all clients. given_back: how often an item returned since the queue was
    created."""

    open_reads: int = 0
    given_back: int = 0


_WIRE_NAMES = {"age": "age_ms", "open_transactions": "open_reads"}
_FIELDS = {field.name for field in COUNTED} - set(_WIRE_NAMES.values()) | set(_WIRE_NAMES)
_CHILDREN, _FANOUT, _ATOMIC = "children", "fanout", "atomic"

_OF_A_QUEUE = "STAT queue_"
NO_AGE_MS = 1_000_000_000_000
"""An age that means "unknown": 31 years. For a queue that was never read, Kestrel reports the age since 1970.
Source: Kestrel 2.4.8."""


def parse_dump(lines: Iterable[str]) -> dict[str, QueueStats]:
    """Reads the lines of `dump_stats`: `queue 'name' {`, `  stat=number` ..., `}`. Raises ValueError.

    A queue that was asked for but does not exist has one blank line, and is left out. A server without queues sends a
    blank line. Source: Kestrel 2.4.8.
    """
    queues: dict[str, QueueStats] = {}
    name: str | None = None
    values: dict[str, Any] = {}
    for line in lines:
        if not line.strip():
            continue
        if name is None:
            if not (line.startswith("queue '") and line.endswith("' {")):
                raise ValueError(f"not the start of a queue: {line[:64]!r}")
            name, values = line[7:-3], {}
        elif line == "}":
            if values:
                queues[name] = QueueStats(**values)
            name = None
        else:
            stat, equals, value = line.strip().partition("=")
            if not equals:
                raise ValueError(f"not a statistic: {line[:64]!r}")
            _add(values, stat, value)
    if name is not None:
        raise ValueError("the statistics end in the middle of a queue")
    return queues


def parse_open_reads(lines: Iterable[str], key: str) -> OpenReadCounts | None:
    """Reads the lines of `dump_stats key`. None if they do not tell.

    A queue that does not exist has no open reads; only a group with its name and one blank line shows that.
    Source: Kestrel 2.4.8.
    """
    told = [line.strip() for line in lines]
    if told[:1] != [f"queue '{key}' {{"] or told[-1] != "}":
        return None
    if told[1:-1] == [""]:
        return OpenReadCounts()
    try:
        values = dict(line.split("=", 1) for line in told[1:-1])
        return OpenReadCounts(int(values["open_transactions"]), int(values["canceled_transactions"]))
    except (KeyError, ValueError):
        return None


def names_in_stats(lines: Sequence[str]) -> set[str]:
    """The queues that `parse_stats` finds in the lines, without their statistics."""
    told = [line[len(_OF_A_QUEUE) :].partition(" ")[0] for line in lines if line.startswith(_OF_A_QUEUE)]
    items = {stat.removesuffix("_items") for stat in told if stat.endswith("_items")}
    open_reads = {stat.removesuffix("_open_transactions") for stat in told if stat.endswith("_open_transactions")}
    return items & open_reads


def parse_stats(lines: Iterable[str], keys: Iterable[str] = ()) -> dict[str, QueueStats]:
    """Reads `STAT queue_<name>_<stat> <number>` lines, whose names may contain `_`. Raises ValueError.

    A name is a queue's if it has both `items` and `open_transactions`: so `queue_a_total_items` belongs to `a`, unless
    there is a queue `a_total`. keys: only these queues are wanted; others whose names begin like theirs may be
    included.
    """
    stats: dict[str, str] = {}
    wanted = tuple(f"{_OF_A_QUEUE}{key}_" for key in keys) or (_OF_A_QUEUE,)
    for line in lines:
        if not line.startswith(wanted):
            continue
        fields = line.split(" ", 2)
        if len(fields) == 3 and fields[0] == "STAT" and fields[1].startswith("queue_"):
            stats[fields[1].removeprefix("queue_")] = fields[2]
    queues: dict[str, QueueStats] = {}
    for stat in stats:
        name = stat.removesuffix("_items")
        if name == stat or f"{name}_open_transactions" not in stats:
            continue
        values: dict[str, Any] = {}
        for field in (*_FIELDS, _CHILDREN, _FANOUT):
            if (value := stats.get(f"{name}_{field}")) is not None:
                _add(values, field, value)
        queues[name] = QueueStats(**values)
    return queues


def _add(values: dict[str, Any], stat: str, value: str) -> None:
    if stat == _CHILDREN:  # their names, separated by commas
        values[stat] = frozenset(value.split(","))
    elif stat == _FANOUT:
        values[_ATOMIC] = value == _ATOMIC
    elif stat == "age":
        values["age_ms"] = age_ms if (age_ms := int(value)) < NO_AGE_MS else 0
    elif stat in _FIELDS:
        values[_WIRE_NAMES.get(stat, stat)] = int(value)
