"""`make docs` builds a site of every page, without a warning."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.mark.slow  # asks the registry of packages
def test_the_site_builds(root: Path) -> None:
    """A dead link or anchor is a warning, and in strict mode an error. No page is missing."""
    done = subprocess.run(["make", "docs"], cwd=root, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.stem for path in (root / "docs").glob("*.md")} - {"README"}
    assert pages <= {path.name for path in (root / "build" / "docs").iterdir()}
    assert (root / "build" / "docs" / "index.html").exists()
