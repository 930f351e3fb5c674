"""The entries of the control state by kind and name, as the use cases read and write them. Asks no server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gateway.coverage import Coverage
from gateway.delivery.control.state import ControlState, EntryKey

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EntryKind(Generic[T]):
    """A kind of entries, and the form of its values in JSON. unpack raises ValueError, TypeError or KeyError for values
    of another version, which are then ignored."""

    name: str
    pack: Callable[[T], Any]
    unpack: Callable[[Any], T]


class ControlMap(Generic[T]):
    """The entries of one kind by name. write: stores a value in JSON under a kind and a name; None: a tombstone."""

    def __init__(self, kind: EntryKind[T], write: Callable[[EntryKey, Any], Awaitable[Coverage]]) -> None:
        self._kind = kind
        self._write = write
        self._values: dict[str, T] = {}
        self._deleted: dict[str, float] = {}
        self._listeners: list[Callable[[str], None]] = []

    def get(self, name: str) -> T | None:
        """The value; None if there is none or it was deleted."""
        return self._values.get(name)

    def items(self) -> Mapping[str, T]:
        """Every value by name. Do not change it; it may be replaced at any await."""
        return self._values

    def deleted_at(self, name: str) -> float | None:
        """The Unix time at which the entry was deleted; None if it was not, or so long ago that this is forgotten."""
        return self._deleted.get(name)

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the name of each entry that changes, here or elsewhere. It must not raise."""
        self._listeners.append(listener)

    async def set(self, name: str, value: T) -> Coverage:
        """Writes the entry. Returns how many members have stored it; the others get it when they can be reached.

        Raises: BackendUnavailable if no member has stored it, OutcomeUnknown if one may have. Cancelled: it may be
        stored.
        """
        return await self._write((self._kind.name, name), self._kind.pack(value))

    async def delete(self, name: str) -> Coverage:
        """Replaces the entry by a tombstone. Returns, Raises, Cancelled: as for `set`."""
        return await self._write((self._kind.name, name), None)

    def take_over(self, names: Sequence[str], state: ControlState) -> None:
        """Entries with these names have changed in `state`."""
        for name in names:
            entry = state.get((self._kind.name, name))
            self._values.pop(name, None)
            self._deleted.pop(name, None)
            if entry is None:
                continue
            if entry.value is None:
                self._deleted[name] = entry.written_ms / 1000
                continue
            try:
                self._values[name] = self._kind.unpack(entry.value)
            except (ValueError, TypeError, KeyError) as exc:
                log.warning("control state: the entry %s of %s cannot be read: %s", name, self._kind.name, exc)
        for name in names:
            for listener in self._listeners:
                listener(name)
