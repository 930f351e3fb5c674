"""Query parameters, as openapi.yaml describes them: from text to checked values. Pure.

A `number` is seconds, an `integer` is digits, a `boolean` is true or false, a `string` must match its pattern, enum and
length, an `array` of strings is a parameter that may be repeated. A parameter without a default is None if it is absent
(an array: empty). Defaults are in `x-default`: some generated clients always send a `default`, which would override a
queue's policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import unquote_plus

from gateway.api.request import hints
from gateway.common.counted import counted
from gateway.errors import InvalidParameter

_DURATION = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,32})?", re.ASCII)
_INTEGER = re.compile(r"[0-9]{1,15}", re.ASCII)


class Parameter(Protocol):
    """The rule for one parameter."""

    @property
    def name(self) -> str: ...
    @property
    def default(self) -> Any: ...
    def parse(self, text: str) -> Any: ...


REMEMBERED: Final = 256
REMEMBERED_BYTES: Final = 40
"""Clients repeat a few short queries, also with one more pair behind them, a lease id or a filter, and a few short
pairs."""


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds."""

    name: str
    low_s: float
    high_s: float
    default: float | None = None

    def parse(self, text: str) -> float:
        """Raises InvalidParameter unless `text` is digits with an optional fraction, within the range."""
        if not _DURATION.fullmatch(text.removeprefix("-")):
            raise InvalidParameter(f"{self.name}: {text[:40]!r} is not a number of seconds, such as 20 or 0.5")
        value_s = float(text)
        if text.startswith("-") or not self.low_s <= value_s <= self.high_s:
            raise InvalidParameter(
                f"{self.name}: {text[:40]} is not between {self.low_s:.12g} and {self.high_s:.12g} seconds"
            )
        return value_s


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number."""

    name: str
    low: int
    high: int
    default: int | None = None

    def parse(self, text: str) -> int:
        """Raises InvalidParameter unless `text` is digits, within the range."""
        if not _INTEGER.fullmatch(text) or not self.low <= int(text) <= self.high:
            raise InvalidParameter(f"{self.name}: {text[:40]!r} is not a whole number from {self.low} to {self.high}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Text:
    """A string. pattern: must match the whole value; allowed: the values, empty for any; hint: the rule in words."""

    name: str
    pattern: re.Pattern[str]
    allowed: tuple[str, ...]
    hint: str
    limit: int
    default: str | None = None

    def parse(self, text: str) -> str:
        """Raises InvalidParameter unless `text` is what the contract allows."""
        if self.allowed and text not in self.allowed:
            only = "the only value is" if len(self.allowed) == 1 else "use one of"
            raise InvalidParameter(f"{self.name}: {text[:80]!r} is unknown; {only} {', '.join(self.allowed)}")
        if len(text) > self.limit or not self.pattern.fullmatch(text):
            raise InvalidParameter(f"{self.name}: {text[:80]!r} is not {self.hint or 'what the contract allows'}")
        return text


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    name: str
    default: bool | None = None

    def parse(self, text: str) -> bool:
        """Raises InvalidParameter."""
        if text not in ("true", "false"):
            raise InvalidParameter(f"{self.name}: {text[:40]!r} is unknown; use true or false")
        return text == "true"


@dataclass(frozen=True, slots=True)
class Repeated:
    """A parameter that may be given up to `limit` times; its value is a tuple."""

    name: str
    each: Parameter
    limit: int
    default: tuple[Any, ...] = ()

    def parse(self, text: str) -> Any:
        return self.each.parse(text)


class Values(dict[str, Any]):
    """The value of every parameter of a request, defaults included. given: the names of those in the request."""

    __slots__ = ("given",)

    def __init__(self, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        super().__init__(defaults)
        self.update(given)
        self.given = frozenset(given)

    def and_one_more(self, name: str, value: Any) -> Values:
        """These and the value of a parameter that is not among them."""
        more = Values(self, {name: value})
        more.given |= self.given
        return more


class Query:
    """The query parameters of one operation."""

    def __init__(self, parameters: list[Mapping[str, Any]]) -> None:
        """`parameters`: as in openapi.yaml, references resolved. `x-former-name` is a parameter's second name."""
        self._names = {each["name"]: each["name"] for each in parameters}
        self._names |= {each["x-former-name"]: each["name"] for each in parameters if "x-former-name" in each}
        schemas = {each["name"]: each["schema"] for each in parameters}
        self._parameters = {name: _parameter(name, schemas[current]) for name, current in self._names.items()}
        self._defaults = Values({name: self._parameters[name].default for name in schemas}, {})
        self._parsed: dict[bytes, Values] = {}
        self._pairs: dict[str, tuple[str, Parameter, Any]] = {}

    def parse(self, raw: bytes) -> Values:
        """Every parameter's value, defaults included.

        Raises:
            InvalidParameter: an unknown or repeated parameter, or a value that is not allowed.
        """
        if not raw:
            return self._defaults
        values = self._parsed.get(raw)
        if values is None:
            values = self._and_one_more(raw) or self._parse(raw)
            if len(raw) <= REMEMBERED_BYTES:
                if len(self._parsed) >= REMEMBERED:
                    self._parsed.clear()
                self._parsed[raw] = values
        return values

    def _and_one_more(self, raw: bytes) -> Values | None:
        """The values of a query that is one of `_parsed` and a last pair; None if it must be read from the start."""
        query, _, last = raw.rpartition(b"&")
        values = self._parsed.get(query) if query else self._defaults
        if values is None or b"%" in last or b"+" in last:
            return None
        name, _, text = last.decode("latin-1").partition("=")
        if name not in self._defaults or name in values.given:
            return None
        parameter = self._parameters[name]
        value = parameter.parse(text)
        return values.and_one_more(name, (value,) if isinstance(parameter, Repeated) else value)

    def _parse(self, raw: bytes) -> Values:
        given: dict[str, Any] = {}
        given_as: dict[str, str] = {}
        encoded = b"%" in raw or b"+" in raw
        for pair in raw.decode("latin-1").split("&"):
            if not pair:
                continue
            known = self._pairs.get(pair)
            name, parameter, value = self._read(pair, encoded=encoded) if known is None else known
            current = self._names[name]
            if isinstance(parameter, Repeated):
                value = (*given.get(current, ()), value)
                if len(value) > parameter.limit:
                    raise InvalidParameter(f"{name}: given more than the maximum of {counted(parameter.limit, 'time')}")
            elif name == given_as.get(current):
                raise InvalidParameter(f"{name}: given twice; send it once")
            elif current in given and value != given[current]:
                raise InvalidParameter(f"{given_as[current]} and {name} differ; send only {current}")
            given[current] = value
            given_as[current] = name
        return Values(self._defaults, given)

    def _read(self, pair: str, *, encoded: bool) -> tuple[str, Parameter, Any]:
        """The name, the parameter and the value of a pair `name=value`. Raises InvalidParameter."""
        name, _, text = pair.partition("=")
        if encoded:
            name, text = unquote_plus(name), unquote_plus(text)
        parameter = self._parameters.get(name)
        if parameter is None:
            raise InvalidParameter(f"unknown query parameter {name[:80]!r}; {self._known(name)}")
        found = name, parameter, parameter.parse(text)
        if len(pair) <= REMEMBERED_BYTES:
            if len(self._pairs) >= REMEMBERED:
                self._pairs.clear()
            self._pairs[pair] = found
        return found

    def _known(self, name: str) -> str:
        """The hint for an unknown parameter, and the list of those that the path accepts."""
        if not self._parameters:
            return "this path accepts none"
        hint = hints.parameter(name, self._defaults)
        return f"{hint + ' This' if hint else 'this'} path accepts {', '.join(self._defaults)}"


def _parameter(name: str, schema: Mapping[str, Any]) -> Parameter:
    default = schema.get("x-default")
    match schema["type"]:
        case "number":
            return Duration(name, schema["minimum"], schema["maximum"], default)
        case "integer":
            return Integer(name, schema["minimum"], schema["maximum"], default)
        case "string":
            return Text(
                name,
                re.compile(schema.get("pattern", ".*").removeprefix("^").removesuffix("$"), re.ASCII | re.DOTALL),
                tuple(schema.get("enum", ())),
                schema.get("title", ""),
                schema.get("maxLength", 1024),
                default,
            )
        case "boolean":
            return Flag(name, default)
        case "array":
            return Repeated(name, _parameter(name, schema["items"]), schema["maxItems"])
        case other:
            raise ValueError(f"{name}: parameters of type {other} are not supported")
