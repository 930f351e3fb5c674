"""The modules of a source tree, parsed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Module:
    """file: relative to the root of the source tree."""

    file: str
    tree: ast.Module


def modules(root: Path, *packages: str) -> Iterator[Module]:
    """Every module of these packages, in order of their files. A package that is not there has none.

    Each is parsed when it is asked for: all trees together are 300,000 objects, which the garbage collector visits.
    """
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            yield Module(str(path.relative_to(root)), ast.parse(path.read_bytes()))


def statements(block: ast.AST) -> Iterator[ast.AST]:
    """The statements of a module, function or other block, with those inside them; no expressions, which are most nodes
    of a tree."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        for each in getattr(block, name, ()):
            yield each
            yield from statements(each)
