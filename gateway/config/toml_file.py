"""A TOML file that people wrote: its values, and the line on which each stands. Judges no value."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.files import read_trusted

Place = tuple[str | int, ...]
"""What leads to a value: `("queues", "emails", "ttl")`, or `("keys", 0, "name")` in an array of tables."""

# Whatever may hold a line's end or a bracket that means nothing, then the two themselves.
# Source: TOML 1.0, "Comment" and "String"; up to two quotes may stand before the closing three.
_TOKEN: Final = re.compile(
    r'''#[^\n]*|"""(?:[^\\]|\\.)*?"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[\[\]{}]|\n''', re.DOTALL
)


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing that is wrong with a file. line: 1-based; 0 where it belongs to no line."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


class MistakesError(ValueError):
    """A file that cannot be used; `mistakes` holds all that is wrong with it, by line."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class TomlFile:
    """What a file holds. Whatever is written over several lines counts by the first of them."""

    name: str
    values: dict[str, Any]
    lines: dict[Place, int]

    def line(self, *place: str | int) -> int:
        """Where the value stands, or what holds it; 0 where nothing is known."""
        while place:
            if place in self.lines:
                return self.lines[place]
            place = place[:-1]
        return 0

    def mistake(self, text: str, *place: str | int) -> Mistake:
        return Mistake(self.name, self.line(*place), text)


def read(path: Path) -> TomlFile:
    """The file's values. Raises MistakesError: it cannot be read, or is not TOML."""
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


def _lines(text: str) -> Iterator[tuple[Place, int]]:
    """Each place and its first line. `text` is TOML."""
    seen: set[Place] = set()
    table: Place = ()
    arrays: Counter[Place] = Counter()
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
    """Each header and each assignment, with the line on which it begins."""
    depth = begin = 0
    number = 1
    for token in _TOKEN.finditer(text + "\n"):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if token[0] == "\n" and not depth:
            yield number, text[begin : token.start()]
            number += text.count("\n", begin, token.end())
            begin = token.end()


def _last(arrays: Counter[Place], names: tuple[str, ...]) -> Place:
    """The place that a header's names mean: of an array of tables, in the last one there is."""
    place: Place = ()
    for name in names[:-1]:
        place += (name,)
        if arrays[place]:
            place += (arrays[place] - 1,)
    return (*place, names[-1])


def _places(value: Any) -> Iterator[Place]:
    within = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in within:
        yield (name,)
        yield from ((name, *rest) for rest in _places(inner))
