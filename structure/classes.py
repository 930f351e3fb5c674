"""What the sources show of classes: how many methods each has, and which names are defined more than once."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from structure.sources import Module, statements

MOST_METHODS = 25


@dataclass(frozen=True, slots=True)
class ClassShape:
    """One definition. file: relative to the root. methods: functions in its body, properties included."""

    name: str
    file: str
    methods: int


def shapes(modules: Iterable[Module]) -> list[ClassShape]:
    """Every class, nested ones too, ordered by file."""
    return [
        ClassShape(node.name, module.file, sum(isinstance(each, FUNCTIONS) for each in node.body))
        for module in modules
        for node in statements(module.tree)
        if isinstance(node, ast.ClassDef)
    ]


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def large(found: Sequence[ClassShape]) -> list[ClassShape]:
    """The classes with more than MOST_METHODS methods, largest first."""
    return sorted((each for each in found if each.methods > MOST_METHODS), key=lambda each: -each.methods)


def repeated(found: Sequence[ClassShape]) -> dict[str, list[str]]:
    """The files of each name that is defined more than once."""
    files = defaultdict(list)
    for each in found:
        files[each.name].append(each.file)
    return {name: where for name, where in sorted(files.items()) if len(where) > 1}
