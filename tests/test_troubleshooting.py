"""docs/troubleshooting.md has a row for each code of gateway/errors.py, with the meaning that openapi.yaml gives it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from gateway.api.metrics.exposition import METRICS
from gateway.api.response.explanations import explanations
from gateway.errors import error_classes
from gateway.settings import Settings, flag
from tests.lab.yaml_text import parse_yaml

PAGE = "docs/troubleshooting.md"


@pytest.fixture(scope="module")
def rows(root: Path) -> dict[str, list[str]]:
    """The table of codes: status, meaning and what to do, by code."""
    table = (root / PAGE).read_text().split("<!-- codes -->")[1]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return {row[0].strip("`| "): row[1:] for row in cells if row[0].startswith(("`", "| `"))}


def test_every_code_has_a_row(root: Path, rows: dict[str, list[str]]) -> None:
    """Sorted, with its statuses, its meaning and an advice. No answer has `lease-gone`, the root of two codes."""
    meanings = explanations(parse_yaml((root / "openapi.yaml").read_text()))
    statuses: dict[str, set[int]] = {}
    for each in error_classes().values():
        statuses.setdefault(each.code, set()).add(each.status)
    del statuses["lease-gone"]
    assert list(rows) == sorted(statuses)
    for code, (status, meaning, advice) in rows.items():
        assert status == ", ".join(map(str, sorted(statuses[code])))
        assert meaning == json.loads(meanings[code])["meaning"]
        assert re.fullmatch(r"[A-Z].*\.", advice.rstrip(" |")), advice


def test_every_flag_and_metric_exists(root: Path) -> None:
    """Those that the page names."""
    text = (root / PAGE).read_text()
    flags = {flag(field) for field in dataclasses.fields(Settings)} | {"--json"}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= flags
    known = {each.name.removesuffix("_total") for each in METRICS}
    for name in set(re.findall(r"kestrel_gateway_[a-z_]+", text)):
        assert name.removeprefix("kestrel_gateway_").removesuffix("_total") in known, name


def test_the_first_words_of_failed_starts_are_those_of_the_code(root: Path) -> None:
    """Each line of the last table is a message of the sources."""
    sources = "".join(path.read_text() for path in (root / "gateway").rglob("*.py"))
    begins = re.findall(r"^\| `([a-z]+: ?[^`]*)` \|", (root / PAGE).read_text(), re.MULTILINE)
    assert len(begins) == 5
    for begin in begins:
        for part in begin.split(" … "):
            assert part in sources, part
