"""What an examination finds, and how a person and a program read it. Examines nothing itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from gateway.common.one_line import one_line

Verdict = Literal["ok", "warning", "error"]

_INDENT: Final = " " * 23


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. check: what was examined. notes: further lines."""

    check: str
    verdict: Verdict
    text: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        first = f"{self.verdict:<9} {self.check:<12} {self.text}"
        return "\n".join(map(one_line, [first, *(f"{_INDENT}{note}" for note in self.notes)]))


@dataclass(frozen=True, slots=True)
class UsedSetting:
    """A setting in force. value: as a flag takes it; of a secret only that it is given. source: `flag`, the name of the
    variable, or `default`."""

    flag: str
    value: str
    source: str


def is_sound(findings: Sequence[Finding]) -> bool:
    """Whether there is no error. Warnings are no errors."""
    return all(each.verdict != "error" for each in findings)


def as_text(version: str, findings: Sequence[Finding]) -> str:
    """The report for a person."""
    counts = [sum(each.verdict == verdict for each in findings) for verdict in ("error", "warning")]
    names = [f"{count} {word}{'s' * (count != 1)}" for count, word in zip(counts, ("error", "warning"), strict=True)]
    return "\n".join([version, *map(str, findings), ", ".join(names)])


def as_json(version: str, findings: Sequence[Finding], settings: Sequence[UsedSetting]) -> str:
    """The report for a program: one line."""
    return json.dumps(
        {
            "ok": is_sound(findings),
            "version": version,
            "findings": [asdict(each) for each in findings],
            "settings": [asdict(each) for each in settings],
        }
    )
