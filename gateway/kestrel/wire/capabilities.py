"""What a server can do, told from its version and its answers. Pure.

Source: kestrel-wire.md, "Servers that imitate it".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_KESTREL = re.compile(r"[1-9]\d*\.\d+(\.\d+)?([-+.].*)?")
_DARNER = re.compile(r"0\.\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`confirm`: acks are proved; `waits`: `t=` is honoured; `empty_items`: an item of no bytes comes back as it was;
    the others are commands or features by that name.
    """

    software: str
    confirm: bool
    waits: bool
    dump_stats: bool
    status: bool
    expiry: bool
    fanout: bool
    empty_items: bool

    @property
    def missing(self) -> tuple[str, ...]:
        """The features that are not there, by name."""
        names = ("confirm", "waits", "dump_stats", "status", "expiry", "fanout", "empty_items")
        return tuple(name for name in names if not getattr(self, name))


def by_version(version: str) -> Capabilities:
    """What the version promises. A server that is not known is taken for a Kestrel until it answers otherwise."""
    if version.lower().startswith("siberite"):
        return _imitator("siberite", waits=False)
    if _DARNER.fullmatch(version):
        return _imitator("darner", waits=True)
    software = "kestrel" if _KESTREL.fullmatch(version) else "unknown"
    return Capabilities(
        software, confirm=True, waits=True, dump_stats=True, status=True, expiry=True, fanout=True, empty_items=True
    )


def _imitator(software: str, *, waits: bool) -> Capabilities:
    return Capabilities(
        software,
        confirm=False,
        waits=waits,
        dump_stats=False,
        status=False,
        expiry=False,
        fanout=False,
        empty_items=False,
    )
