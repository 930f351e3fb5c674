"""The control state as a value: which entries there are, how two states merge, and the form of an item. No I/O.

An entry belongs to a kind and a name, and has a value and the time when it was written. An entry without a value is a
tombstone: it says that the entry was deleted.

1. Of two entries with the same kind and name the newer one wins. So merging is commutative, associative and idempotent:
   states that are merged in any order are equal in the end.
2. A writer that replaces an entry writes a later time than the entry has, even if its own clock is behind.
3. A tombstone is dropped KEPT_S after it was written, and if its kind has TOMBSTONES or more newer ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

FORMAT: Final = 1
KEPT_S: Final = 30 * 86400
"""A server that was unreachable for longer may bring back what was deleted meanwhile."""
TOMBSTONES: Final = 1000


@dataclass(frozen=True, slots=True)
class ControlEntry:
    """One entry. written_ms: Unix time. value: JSON; None: a tombstone."""

    written_ms: int
    value: Any

    @property
    def rank(self) -> tuple[int, bytes]:
        """The order of entries with the same kind and name: total, so that all replicas choose the same one."""
        return self.written_ms, orjson.dumps(self.value, option=orjson.OPT_SORT_KEYS)


EntryKey = tuple[str, str]
"""Kind and name."""


class ControlState:
    """A set of entries."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[tuple[EntryKey, ControlEntry]] = ()) -> None:
        self._entries = dict(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[EntryKey]:
        return iter(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ControlState) and other._entries == self._entries

    __hash__ = None  # type: ignore[assignment]

    def get(self, at: EntryKey) -> ControlEntry | None:
        return self._entries.get(at)

    def next_entry(self, at: EntryKey, value: Any, now_ms: int) -> ControlEntry:
        """The entry that replaces the current one (rule 2)."""
        current = self._entries.get(at)
        return ControlEntry(now_ms if current is None else max(now_ms, current.written_ms + 1), value)

    def merge(self, other: ControlState) -> list[EntryKey]:
        """Takes over every newer entry of `other`; returns which entries are new or changed."""
        changed = []
        for at, entry in other._entries.items():
            if self._lacks(at, entry):
                self._entries[at] = entry
                changed.append(at)
        return changed

    def prune(self, now_ms: int) -> list[EntryKey]:
        """Drops old tombstones (rule 3); returns which."""
        dropped = []
        by_kind: dict[str, list[tuple[int, str]]] = {}
        for (kind, name), entry in self._entries.items():
            if entry.value is None:
                by_kind.setdefault(kind, []).append((entry.written_ms, name))
        for kind, tombstones in by_kind.items():
            tombstones.sort(reverse=True)
            for number, (written_ms, name) in enumerate(tombstones):
                if number >= TOMBSTONES or written_ms < now_ms - KEPT_S * 1000:
                    del self._entries[kind, name]
                    dropped.append((kind, name))
        return dropped

    def covers(self, other: ControlState) -> bool:
        """Whether this state has all entries of `other`, or newer ones. Tombstones above the limit may be missing."""
        missing = [at for at, entry in other._entries.items() if self._lacks(at, entry)]
        if not missing:
            return True
        merged = self.copy()
        merged.merge(other)
        merged.prune(0)  # both states were pruned by time
        return not any(merged.get(at) or self.get(at) for at in missing)

    def _lacks(self, at: EntryKey, entry: ControlEntry) -> bool:
        current = self._entries.get(at)
        return current is None or (entry != current and entry.rank > current.rank)

    def copy(self) -> ControlState:
        return ControlState(self._entries.items())


@dataclass(frozen=True, slots=True, eq=False)
class ControlItem:
    """A state as it is stored on a server. id: different for each item that is written."""

    id: str
    state: ControlState

    def replaces(self, other: ControlItem) -> bool:
        """Whether `other` may be removed if this item is stored.

        If items replace one another in turn, the last never replaces the first. So of several items on one queue at
        least one stays.
        """
        return self.state.covers(other.state) and (not other.state.covers(self.state) or self.id > other.id)

    def pack(self) -> bytes:
        kinds: dict[str, dict[str, tuple[int, Any]]] = {}
        for kind, name in self.state:
            entry = self.state.get((kind, name))
            assert entry is not None
            kinds.setdefault(kind, {})[name] = entry.written_ms, entry.value
        return orjson.dumps({"kestrel-gateway-control": FORMAT, "id": self.id, "kinds": kinds})


def unpack(data: bytes) -> ControlItem:
    """The item in these bytes; without entries if they are not one. Kinds that this version does not know are kept."""
    try:
        content = orjson.loads(data)
        if content["kestrel-gateway-control"] != FORMAT:
            return ControlItem("", ControlState())
        entries = [
            ((kind, name), ControlEntry(int(written_ms), value))
            for kind, names in content["kinds"].items()
            for name, (written_ms, value) in names.items()
        ]
        return ControlItem(str(content["id"]), ControlState(entries))
    except (ValueError, TypeError, KeyError, AttributeError):
        return ControlItem("", ControlState())
