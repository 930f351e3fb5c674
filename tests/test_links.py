"""Every link of a document to a file of the repository leads to one, and to a heading that is there."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "llms.txt", "docs/**/*.md", "clients/**/*.md", "bench/*.md", "stability/*.md")
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts
)


@functools.cache
def anchors(path: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found: dict[str, int] = {}
    every = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        every.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return every


def dead_links(document: Path) -> Iterator[str]:
    """The targets of its links that are not there."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        leads_to = (document.parent / path).resolve() if path else document
        if not leads_to.exists() or (anchor and leads_to.suffix == ".md" and anchor not in anchors(leads_to)):
            yield target


def test_every_link_leads_somewhere() -> None:
    """Links to other sites are not followed."""
    assert len(DOCUMENTS) > 40
    assert [(str(each), target) for each in DOCUMENTS for target in dead_links(each)] == []


def test_a_link_has_words_and_not_the_name_of_a_page_s_file() -> None:
    """The site shows the text of a link, and its pages have no `.md` in their names."""
    name = re.compile(r"\[[a-z0-9-]+\.md\]\(")
    assert [(str(each), link) for each in DOCUMENTS for link in name.findall(each.read_text())] == []
