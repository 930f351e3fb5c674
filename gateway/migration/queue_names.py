"""Which queues are moved, and what they are called afterwards. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

_PARTS: Final = re.compile(r"(?P<base>.+?)(?P<rest>\+[^+]*|__dead|__[A-Za-z0-9_-]+?__subdead)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NewNames:
    """only: patterns of the queues to move; none: all. renamed: new names. prefix: before every name without one.

    A new name is also that of the queue's children and dead letters: with `a=b`, `a+c` becomes `b+c`, and `a__dead`
    becomes `b__dead`.
    """

    only: tuple[str, ...] = ()
    renamed: Mapping[str, str] | None = None
    prefix: str = ""

    def chosen(self, names: Iterable[str]) -> list[str]:
        """The queues to move, each before its children.

        An item that is put on a queue is copied to the children that the server knows. As long as the new server knows
        none, it copies nothing.
        """
        found = [name for name in names if not self.only or any(fnmatchcase(name, each) for each in self.only)]
        return sorted(found, key=lambda name: ("+" in name, name))

    def new(self, name: str) -> str:
        """The name of a queue on the other side."""
        renamed = self.renamed or {}
        if name in renamed:
            return renamed[name]
        parts = _PARTS.fullmatch(name)
        base, rest = (parts["base"], parts["rest"] or "") if parts else (name, "")
        return renamed.get(base, self.prefix + base) + rest


def is_kestrel_name(name: str) -> bool:
    """Whether every Kestrel takes the name. Source: docs/kestrel-wire.md, "Names and errors"."""
    return 0 < len(name.encode()) <= 200 and not re.search(r"[\x00-\x20\x7f/.~]", name)
