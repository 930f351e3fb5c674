"""The types of values that flags take, for every command. They accept what people write, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import click

_MOST: Final = 1_000_000_000
"""32 years. Dates and clocks of the system end at some number of seconds."""
HELP: Final = {"help_option_names": ["-h", "--help"]}
"""Of a command's context: its subcommands inherit it."""


def usage_mistake(exc: click.ClickException) -> str:
    """Its message on one line: click lists the values that a flag allows on lines of their own."""
    return re.sub(r"([:,])\n\t", r"\1 ", exc.format_message())


class WholeNumber(click.ParamType[int]):
    """Digits only: int() would also accept `1_0` and ` 1 `."""

    name = "n"

    def __init__(self, least: int = 0, most: int | None = None) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, or a usage error."""
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"[0-9]{1,18}", value):
            self.fail(f"{value!r} is not a whole number", param, ctx)
        if int(value) < self._least:
            self.fail(f"{value} is below the minimum of {self._least}", param, ctx)
        if self._most is not None and int(value) > self._most:
            self.fail(f"{value} is above the maximum of {self._most}", param, ctx)
        return int(value)


class Seconds(click.ParamType[float]):
    """Digits with at most one point: float() would also accept `nan`, `inf` and `1e9`."""

    name = "seconds"
    what = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The duration, or a usage error."""
        if isinstance(value, int | float):
            return float(value)
        if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]+)?", value):
            self.fail(f"{value!r} is not a number of {self.what}", param, ctx)
        if float(value) > _MOST:
            self.fail(f"{value} is above the maximum of {_MOST} {self.what}", param, ctx)
        return float(value)


class Rate(Seconds):
    """Requests a second, in the format of Seconds."""

    name = "requests"
    what = "requests a second"


class HeaderText(click.ParamType[str]):
    """A value that becomes an HTTP header: printable ASCII without spaces at its ends."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, or a usage error."""
        if not re.fullmatch("[!-~]([ -~]*[!-~])?", value):
            what = repr(value) if value else "the value is empty"
            self.fail(f"{what}; use printable ASCII characters, without spaces at the ends", param, ctx)
        return str(value)


class QueueName(click.ParamType[str]):
    """The name of a queue or of a child, as a part of a path. The gateway checks the rest."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, or a usage error."""
        if not value:
            self.fail("the name is empty", param, ctx)
        if "/" in value:
            self.fail(f"{value!r}: a name may not contain '/'", param, ctx)
        if value in (".", "..") or not value.isprintable():
            self.fail(f"{value!r} is not a name; a name has letters, digits, _ and -", param, ctx)
        return str(value)


class ListedText(click.ParamType[str]):
    """One of several values: the flag repeats; the variable separates values by commas or spaces."""

    name = "text"

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """The values in a variable."""
        return [part for part in re.split(r"[,\s]+", rv) if part]
