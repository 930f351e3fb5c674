"""The modules of a source tree, parsed."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Module:
    """file: relative to the root of the source tree."""

    file: str
    tree: ast.Module


def modules(root: Path, *packages: str) -> list[Module]:
    """Every module of these packages, in order of their files. A package that is not there has none."""
    return [
        Module(str(path.relative_to(root)), ast.parse(path.read_bytes()))
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
    ]
