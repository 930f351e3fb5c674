"""What a server supports, judged by its version and its answers. Pure.

Source: kestrel-wire.md, "Servers that imitate it".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_KESTREL = re.compile(r"[1-9]\d*\.\d+(\.\d+)?([-+.].*)?")
_DARNER = re.compile(r"0\.\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`confirm`: acks are confirmed; `waits`: `t=` is honoured; `empty_items`: an item of zero bytes comes back
    unchanged; the others are commands or features with that name.
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
        """The names of the features that the server lacks."""
        names = ("confirm", "waits", "dump_stats", "status", "expiry", "fanout", "empty_items")
        return tuple(name for name in names if not getattr(self, name))


def by_version(version: str) -> Capabilities:
    """What the version promises. An unknown server counts as a Kestrel until its answers show otherwise."""
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
