"""The files of the page, read once. Pure after that.

`uPlot.js` and `uPlot.css` are unmodified copies from the npm package uplot 1.6.32 (MIT, see uPlot-LICENSE.txt).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

INDEX: Final = "index.html"
_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".txt": b"text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. content_type, etag: values of headers."""

    body: bytes
    content_type: bytes
    etag: bytes

    @classmethod
    def of(cls, body: bytes, suffix: str) -> Asset:
        return cls(body, _TYPES[suffix], b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode())


def load() -> Mapping[str, Asset]:
    """Every file of the page by its name."""
    found = {}
    for path in files("gateway.ui").joinpath("static").iterdir():
        suffix = path.name[path.name.rfind(".") :]
        if suffix in _TYPES:
            found[path.name] = Asset.of(path.read_bytes(), suffix)
    return found
