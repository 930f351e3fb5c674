"""Hooks of MkDocs: what the site of docs/ shows otherwise than GitHub."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

_LINK = re.compile(r"(\]\()(\.\./[^)\s]+)(\))")
_WIDE_TABLE = re.compile(r"^\|(?: *:?-+:? *\|){7,}$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """The page's text. A link to a file outside docs/, such as ../openapi.yaml, leads to that file in the repository.

    A page with a table of seven or more columns has the whole width, without the lists of pages and of headings.
    """
    if _WIDE_TABLE.search(markdown):
        page.meta["hide"] = ["navigation", "toc"]
    folder = PurePosixPath("docs", page.file.src_uri).parent

    def replaced(found: re.Match[str]) -> str:
        parts = list(folder.parts)
        target = found[2]
        while target.startswith("../"):
            target = target.removeprefix("../")
            parts.pop()
        if parts:  # it stays inside docs/
            return found[0]
        return f"{found[1]}{config.repo_url}/blob/main/{target}{found[3]}"

    return _LINK.sub(replaced, markdown)


def on_post_page(output: str, **_: Any) -> str:
    """The page's HTML, without the mark that makes the theme's script ask api.github.com about the repository."""
    return output.replace(' data-md-component="source"', "")


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for the page of unknown addresses, 404.html."""
    return on_post_page(output_content)
