"""Results as text: sections with a heading, columns and rows, as plain text or as markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Section:
    """One group of figures. note: what a reader must know to read it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def text(self) -> str:
        """Aligned columns; the first is left-aligned, figures are right-aligned."""
        table = [self.columns, *self.rows]
        widths = [max(len(row[at]) for row in table) for at in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(cells))
            for cells in (list(zip(row, widths, strict=True)) for row in table)
        ]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([self.title, *(line.rstrip() for line in lines), *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """The same as a markdown table."""
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, *self.rows)]
        lines.insert(1, "|---" + "|---:" * (len(self.columns) - 1) + "|")
        return "\n".join([f"**{self.title}**", "", *lines, *(["", self.note] if self.note else [])])


def against(value: float, limit: float, unit: str = "") -> str:
    """The target and whether `value` meets it."""
    return f"<= {limit:g}{unit} {'ok' if value <= limit else 'MISSED'}"


def percentile(values: list[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


def middle(values: list[float]) -> float:
    """The median."""
    return median(values)
