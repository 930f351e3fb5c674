"""Which queues are moved, and what they are called afterwards. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from gateway.names.namespace import INTERNAL, SEPARATOR, Namespace

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

    def unused(self, names: Iterable[str]) -> list[str]:
        """The options that fit none of the names, such as `--queue emial`: somebody has mistyped them."""
        found = list(names)
        bases = {*found, *(parts["base"] for each in found if (parts := _PARTS.fullmatch(each)))}
        return [
            *(f"--queue {each}" for each in self.only if not any(fnmatchcase(name, each) for name in found)),
            *(f"--rename {old}={new}" for old, new in (self.renamed or {}).items() if old not in bases),
        ]

    @property
    def change(self) -> bool:
        """Whether a queue may have another name on the other side."""
        return bool(self.renamed or self.prefix)

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


def is_internal(name: str) -> bool:
    """Whether it is an internal queue of a gateway: delayed jobs, which name their queues, or the control state."""
    return name.startswith(f"{INTERNAL}{SEPARATOR}") or f"{SEPARATOR}{INTERNAL}{SEPARATOR}" in name


def is_control(name: str) -> bool:
    """Whether it is the control state of a gateway, such as pauses, which is no job."""
    return is_internal(name) and name.endswith(f"{SEPARATOR}control")


def unreadable(name: str, prefix: str) -> str:
    """Why a gateway cannot read this queue over HTTP, or which gateway can; empty if any can.

    prefix: the operator has asked for it, so it is that of a tenant or a namespace.
    """
    if is_internal(name) or Namespace().read(name):
        return ""
    first = name.partition(SEPARATOR)[0]
    if not any(each.read(name) for each in (Namespace("", tenanted=True), Namespace(first), Namespace(first, True))):
        return (
            f"{name!r} is not a name that HTTP can use: only memcache clients can read it; give it another name with "
            "--rename"
        )
    return "" if prefix else f"{name}: only a gateway with the tenant or the namespace {first!r} can read it"
