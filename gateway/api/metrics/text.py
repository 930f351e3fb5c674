"""One family of metrics in Prometheus' text format, as OpenMetrics reads it, too."""

from __future__ import annotations

from collections.abc import Iterable


def family(name: str, meaning: str, kind: str, lines: Iterable[str]) -> str:
    """The family. kind: gauge, counter (then `name` ends in `_total`) or histogram. lines: each a suffix of the name,
    labels in braces, a space and a value; all but the value may be empty."""
    head = f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"
    return head + "".join(f"{name}{line}\n" for line in lines)
