"""A hook of MkDocs: a link to a file outside docs/ leads to that file in the repository."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

_LINK = re.compile(r"(\]\()(\.\./[^)\s]+)(\))")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """The page's text, with links such as ../openapi.yaml replaced. Called by MkDocs for each page."""
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
