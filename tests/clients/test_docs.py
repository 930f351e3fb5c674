"""What clients/README.md and clients/timeouts-and-retries.md say is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from gateway.errors import error_classes
from tests.clients.languages import LANGUAGES, SOURCES

RETRIES = SOURCES / "timeouts-and-retries.md"


def rows(page: Path) -> list[list[str]]:
    """The cells of every row of its tables, without heads and lines."""
    found = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_every_code_has_its_row() -> None:
    """The table of codes has each error's code, status and whether it is retryable, once, sorted by status and code."""
    _, table, _ = RETRIES.read_text().split("<!-- codes -->")
    said = []
    for line in table.splitlines():
        if line.startswith("| `"):
            row = re.fullmatch(r"\| `([a-z-]+)` \| (\d{3}) \| (yes|no) \| [A-Z].*\. \|", line)
            assert row, line
            said.append((int(row[2]), row[1], row[3]))
    errors = {
        (each.status, each.code, "yes" if each.retryable else "no")
        for each in error_classes().values()
        if each.code != "lease-gone"  # the root of two; no answer has it
    }
    assert said == sorted(errors), "clients/timeouts-and-retries.md has a row for each error of gateway/errors.py"


def test_readme_lists_every_client() -> None:
    """The README has a row for each folder, and each folder's programs are there."""
    folders = [match[1] for row in rows(SOURCES / "README.md") if (match := re.match(r"\[([a-z-]+)\]\(\1/\)", row[0]))]
    assert sorted(folders) == sorted(each.name for each in SOURCES.iterdir() if each.is_dir())
    assert {each.name for each in LANGUAGES} == set(folders) - {"curl-examples"}


def test_what_the_readme_sends_as_null_is_null(http: httpx.Client, queue: str) -> None:
    """Both ways of `enqueueJobs` to send null that the README names give consumers null."""
    text = (SOURCES / "README.md").read_text()
    job = re.search(r'`"data_base64": "(.*)"` with `(.*)`', text)
    assert job
    assert '`"data": null`' in text
    jobs = [{"data": None}, {"data_base64": job[1], "content_type": job[2]}]
    assert http.post(f"/queues/{queue}/jobs/batch", json={"jobs": jobs}).status_code == 201
    for _ in jobs:
        taken = http.get(f"/queues/{queue}/next").json()
        assert taken["data"] is None
        assert taken["content_type"] == "application/json"


def test_links_lead_somewhere() -> None:
    """Every relative link of the two pages names a file."""
    for page in (SOURCES / "README.md", RETRIES):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (SOURCES / target).exists(), target
