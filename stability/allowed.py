"""The breaking changes since the baseline that are meant: allowed.toml, one table each.

[[change]]
rule = "request-parameter-removed"
text = "deleted the `query` request parameter `fast`"   # part of it is enough
operation = "GET /queues/{queue}/next"                  # optional: all operations without it
reason = "It never did anything."
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from stability.changes import Change

FILE = Path(__file__).with_name("allowed.toml")


@dataclass(frozen=True, slots=True)
class Allowed:
    """One entry. operation is empty where the change may be anywhere."""

    rule: str
    text: str
    reason: str
    operation: str = ""

    def covers(self, change: Change) -> bool:
        """Whether the change, at each of its operations, is the one that is meant."""
        here = not self.operation or set(change.operations) == {self.operation}
        return self.rule == change.rule and self.text in change.text and here


def read(file: Path = FILE) -> list[Allowed]:
    """Every entry. Raises ValueError for one that lacks a member, or has an unknown or empty one."""
    entries = []
    for number, table in enumerate(tomllib.loads(file.read_text()).get("change", []), 1):
        needed = {"rule", "text", "reason"}
        if not needed <= table.keys() <= needed | {"operation"}:
            raise ValueError(f"{file.name}, change {number}: rule, text and reason are needed, operation is optional")
        if not all(isinstance(each, str) and each.strip() for each in table.values()):
            raise ValueError(f"{file.name}, change {number}: every member is a string that is not empty")
        entries.append(Allowed(**table))
    return entries


def sift(changes: list[Change], entries: list[Allowed]) -> tuple[list[Change], list[Allowed]]:
    """The changes that no entry covers, and the entries that cover none."""
    refused = [change for change in changes if not any(entry.covers(change) for entry in entries)]
    unused = [entry for entry in entries if not any(entry.covers(change) for change in changes)]
    return refused, unused
