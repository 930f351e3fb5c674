"""A TOML file that people wrote: its values, and the line on which each stands. Judges no value."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Place = tuple[str, ...]
"""The names that lead to a value: `("queues", "emails", "ttl")`."""


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
    """What a file holds. Lines are found for whatever is written on one line; else the table's line counts."""

    name: str
    values: dict[str, Any]
    lines: dict[Place, int]

    def line(self, *place: str) -> int:
        """Where the value stands, or what holds it; 0 where nothing is known."""
        while place:
            if place in self.lines:
                return self.lines[place]
            place = place[:-1]
        return 0

    def mistake(self, text: str, *place: str) -> Mistake:
        return Mistake(self.name, self.line(*place), text)


def read(path: Path) -> TomlFile:
    """The file's values. Raises MistakesError: it cannot be read, or is not TOML."""
    name = str(path)
    try:
        text = path.read_bytes().decode()
        return TomlFile(name, tomllib.loads(text), dict(_lines(text)))
    except OSError as exc:
        raise MistakesError([Mistake(name, 0, f"cannot be read: {exc.strerror or exc}")]) from exc
    except UnicodeDecodeError as exc:
        raise MistakesError([Mistake(name, exc.object[: exc.start].count(b"\n") + 1, "is not UTF-8")]) from exc
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise MistakesError([Mistake(name, 0, f"is not TOML: {exc}")]) from exc


def _lines(text: str) -> Iterator[tuple[Place, int]]:
    """Each place and its first line, read line by line; a line that is no TOML by itself names nothing."""
    seen: set[Place] = set()
    table: Place = ()
    for number, line in enumerate(text.split("\n"), 1):
        try:
            values = tomllib.loads(line)
        except tomllib.TOMLDecodeError:
            continue
        heads = line.lstrip().startswith("[")
        for place in _places(values):
            if heads:
                table = place
            whole = place if heads else table + place
            if whole not in seen:
                seen.add(whole)
                yield whole, number


def _places(values: dict[str, Any]) -> Iterator[Place]:
    for name, value in values.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, *rest) for rest in _places(value))
