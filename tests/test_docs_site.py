"""`make docs` builds a site of every page, without a warning."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.mark.slow  # asks the registry of packages
def test_the_site_builds(root: Path) -> None:
    """A dead link or anchor is a warning, and in strict mode an error. No page is missing or asks another host."""
    done = subprocess.run(["make", "docs"], cwd=root, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.stem for path in (root / "docs").glob("*.md")} - {"README"}
    assert pages <= {path.name for path in (root / "build" / "docs").iterdir()}
    built = root / "build" / "docs"
    assert (built / "index.html").exists()
    assert list(built.rglob("__pycache__")) == []
    html = {path: path.read_text() for path in built.rglob("*.html")}
    assert [path for path, text in html.items() if "md-source" not in text] == [], "the link to the repository"
    assert [path for path, text in html.items() if 'data-md-component="source"' in text] == [], "asks api.github.com"
    assert (
        'class="md-sidebar md-sidebar--primary" data-md-component="sidebar" data-md-type="navigation" hidden'
        in (html[built / "interactions" / "index.html"])
    ), "a wide table has the whole width"
