"""Tables: aligned and coloured for a terminal, tab-separated with a line of headings for everything else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

Rows = Sequence[Sequence[Any]]


def show(headings: Sequence[str], rows: Rows) -> None:
    """Prints a table. Numbers are aligned at the right."""
    if sys.stdout.isatty():
        Console(markup=False).print(_table(headings, rows))
    else:
        click.echo(_plain(headings, rows), nl=False)


def watch(headings: Sequence[str], each: Iterable[Rows]) -> None:
    """Shows every table of `each` in the place of the one before; without a terminal, one after the other."""
    if not sys.stdout.isatty():
        for rows in each:
            click.echo(_plain(headings, rows))
        return
    with Live(console=Console(markup=False), auto_refresh=False, screen=False) as live:
        for rows in each:
            live.update(_table(headings, rows), refresh=True)


def _table(headings: Sequence[str], rows: Rows) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(headings):
        numbers = bool(rows) and isinstance(rows[0][place], int | float)
        table.add_column(heading, justify="right" if numbers else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_text(value) for value in row))
    return table


def _plain(headings: Sequence[str], rows: Rows) -> str:
    return "".join("\t".join(map(_text, line)) + "\n" for line in [headings, *rows])


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    # A queue of a memcache client may have any name, and a terminal obeys control characters.
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(value))
