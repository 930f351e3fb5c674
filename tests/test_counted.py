"""A count of one is followed by the singular, in every message."""

import ast
import re
from pathlib import Path

import pytest

from gateway.common.counted import counted

NOUNS = frozenset(
    (
        *("attempts", "batches", "bytes", "characters", "children", "clients", "connections", "errors", "events"),
        *("files", "frames", "gets", "items", "jobs", "keys", "leases", "letters", "lines", "members", "mistakes"),
        *(
            "operations",
            "polls",
            "queues",
            "reads",
            "records",
            "requests",
            "servers",
            "subscriptions",
            "tenants",
            "times",
            "workers",
        ),
    )
)
PLURAL = rf"({'|'.join(sorted(NOUNS))})\b"
AFTER_A_NUMBER = re.compile(rf"%d( [a-z-]+)? {PLURAL}|\w\(s\)")
SUSPECT = re.compile(rf"\(s\)|(?:%d|\}})[\"' ]\s*(?:\S+\s+){{0,4}}?\S*\b{PLURAL}")
"""A number, and a plural among the next three words, also if the string ends between them. A module without it has no
such message, and is not parsed: that takes most of the time."""
ALLOWED = {
    # A constant above 1.
    "CHUNK_FRAMING_BYTES",
    "KEY_BYTES",
    "LONGEST_INSTANCE",
    "MAX_BLANK",
    "MAX_KEY",
    "MAX_MESSAGE",
    "MAX_NAME",
    "MAX_OWN_KEY",
    "MAX_PAUSED",
    "MAX_STEPS",
    "_MOST",
    # A part such as `1/2`: its noun is in the plural.
    "api.coverage",
    "coverage",
    # A name, and not a number.
    "shown",
    "columns",
    "self._destination.name",
    "self._source",
    "target.name",
    "url",
}
OF_LOGS = {
    # A limit that is above 1.
    "%d bytes",
    "%d keys",
    "%d queues",
    "%d TCP connections",
    "%d open files",
    # A URL with or without TLS: http(s)://.
    "p(s)",
}


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ("job",), "0 jobs"),
        (1, ("job",), "1 job"),
        (2, ("job",), "2 jobs"),
        (1, ("job is", "jobs are"), "1 job is"),
        (1000, ("job is", "jobs are"), "1000 jobs are"),
    ],
)
def test_words_behind_a_count(count: int, words: tuple[str, ...], text: str):
    """Only 1 has the singular."""
    assert counted(count, *words) == text


def plurals(path: Path) -> list[str]:
    """Each place of a module where a message has a number and, behind it, a plural that does not depend on it."""
    source = path.read_text()
    if not SUSPECT.search(source):
        return []
    nodes = list(ast.walk(ast.parse(source)))
    shown = {
        id(each)
        for function in nodes
        if isinstance(function, ast.FunctionDef) and function.name == "__repr__"
        for each in ast.walk(function)
    }
    found = [
        f"{path}:{text.lineno}: {format_.group()}"
        for text in nodes
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
        for format_ in AFTER_A_NUMBER.finditer(text.value)
        if format_.group() not in OF_LOGS
    ]
    for text in nodes:
        if not isinstance(text, ast.JoinedStr) or id(text) in shown:
            continue
        for value, behind in zip(text.values, text.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(behind, ast.Constant):
                continue
            words = str(behind.value).split()[:3]
            nouns = [word.strip(",.;:)") for word in words]
            noun = next((place for place, word in enumerate(nouns) if word in NOUNS), None)
            if noun is None or not str(behind.value).startswith(" ") or "of" in nouns[:noun]:
                continue
            counts = ast.unparse(value.value)
            if counts not in ALLOWED and not counts.startswith("counted("):
                found.append(f"{path}:{text.lineno}: {{{counts}}} {' '.join(words)}")
    return found


def test_no_message_has_a_fixed_plural_behind_a_number(root: Path):
    """Every such number goes through `counted`."""
    modules = sorted((root / "gateway").rglob("*.py"))
    assert [place for module in modules for place in plurals(module)] == []


def test_a_fixed_plural_is_found(tmp_path: Path):
    """The rule above can fail."""
    module = tmp_path / "module.py"
    module.write_text('print(f"{count} jobs stored")\nprint(f"{count} dead letters")\nprint(f"{name} of two jobs")\n')
    assert [each.split(": ", 1)[1] for each in plurals(module)] == ["{count} jobs stored", "{count} dead letters"]
