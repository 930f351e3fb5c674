"""A TOML file that people write: its values, and the line of each. Judges no value."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.files import read_trusted

TomlPath = tuple[str | int, ...]
"""The path to a value: `("queues", "emails", "ttl")`, or `("keys", 0, "name")` in an array of tables."""

# First everything that may contain a line break or a bracket without meaning, then line breaks and brackets themselves.
# Source: TOML 1.0, "Comment" and "String"; up to two quotes may precede the closing three.
_TOKEN: Final = re.compile(
    r'''#[^\n]*|"""(?:[^\\]|\\.)*?"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[\[\]{}]|\n''', re.DOTALL
)


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake in a file. line: 1-based; 0 if it belongs to no line."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


class MistakesError(ValueError):
    """The file cannot be used; `mistakes` holds every mistake, sorted by line."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class TomlFile:
    """The values in a file. A value over several lines has the number of its first line."""

    name: str
    values: dict[str, Any]
    lines: dict[TomlPath, int]

    def line(self, *place: str | int) -> int:
        """The line of the value, or of the table that holds it; 0 if unknown."""
        while place:
            if place in self.lines:
                return self.lines[place]
            place = place[:-1]
        return 0

    def mistake(self, text: str, *place: str | int) -> Mistake:
        return Mistake(self.name, self.line(*place), text)


def read(path: Path) -> TomlFile:
    """The file's values. Raises MistakesError if the file cannot be read or is not TOML."""
    name = str(path)
    try:
        text = read_trusted(path).decode("utf-8-sig")
        return TomlFile(name, tomllib.loads(text), dict(_lines(text)))
    except OSError as exc:
        raise MistakesError([Mistake(name, 0, f"cannot be read: {exc.strerror or exc}")]) from exc
    except UnicodeDecodeError as exc:
        raise MistakesError([Mistake(name, exc.object[: exc.start].count(b"\n") + 1, "is not UTF-8")]) from exc
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise MistakesError([Mistake(name, 0, f"is not TOML: {exc}")]) from exc


def _lines(text: str) -> Iterator[tuple[TomlPath, int]]:
    """Each place and its first line. `text` is valid TOML."""
    seen: set[TomlPath] = set()
    table: TomlPath = ()
    arrays: Counter[TomlPath] = Counter()
    for number, statement in _statements(text.replace("\r\n", "\n")):
        places = list(_places(tomllib.loads(statement)))
        if statement.lstrip().startswith("["):
            table = _last(arrays, tuple(each for each in places[-1] if isinstance(each, str)))
            if statement.lstrip().startswith("[["):
                arrays[table] += 1
                table = (*table, arrays[table] - 1)
            whole = [table[:end] for end in range(1, len(table) + 1)]
        else:
            whole = [table + place for place in places]
        for place in whole:
            if place not in seen:
                seen.add(place)
                yield place, number


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each header and each assignment, with its first line."""
    depth = begin = 0
    number = 1
    for token in _TOKEN.finditer(text + "\n"):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if token[0] == "\n" and not depth:
            yield number, text[begin : token.start()]
            number += text.count("\n", begin, token.end())
            begin = token.end()


def _last(arrays: Counter[TomlPath], names: tuple[str, ...]) -> TomlPath:
    """The place that a header's names mean; in an array of tables it is in the last table."""
    place: TomlPath = ()
    for name in names[:-1]:
        place += (name,)
        if arrays[place]:
            place += (arrays[place] - 1,)
    return (*place, names[-1])


def _places(value: Any) -> Iterator[TomlPath]:
    within = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in within:
        yield (name,)
        yield from ((name, *rest) for rest in _places(inner))
