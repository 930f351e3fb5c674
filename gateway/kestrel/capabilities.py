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
    """`confirm`: acks are proved; `waits`: `t=` is honoured; the others are commands or features by that name."""

    software: str
    confirm: bool
    waits: bool
    dump_stats: bool
    status: bool
    expiry: bool
    fanout: bool

    @property
    def missing(self) -> tuple[str, ...]:
        """The features that are not there, by name."""
        names = ("confirm", "waits", "dump_stats", "status", "expiry", "fanout")
        return tuple(name for name in names if not getattr(self, name))


def by_version(version: str) -> Capabilities:
    """What the version promises. A server that is not known is taken for a Kestrel until it answers otherwise."""
    if version.lower().startswith("siberite"):
        return Capabilities(
            "siberite", confirm=False, waits=False, dump_stats=False, status=False, expiry=False, fanout=False
        )
    if _DARNER.fullmatch(version):
        return Capabilities(
            "darner", confirm=False, waits=True, dump_stats=False, status=False, expiry=False, fanout=False
        )
    software = "kestrel" if _KESTREL.fullmatch(version) else "unknown"
    return Capabilities(software, confirm=True, waits=True, dump_stats=True, status=True, expiry=True, fanout=True)
