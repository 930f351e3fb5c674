"""Debian's Chromium, driven by Playwright. Nothing else of Playwright's is used."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("KESTREL_GATEWAY_TEST_BROWSER", Path.home() / ".cache/kestrel-gateway/browser"))
AXE = CACHE / "node_modules/axe-core/axe.min.js"


def missing() -> str:
    """What is not installed; empty if nothing."""
    chromium = shutil.which("chromium") is not None
    found = {"chromium": chromium, "playwright": (CACHE / "python/playwright").is_dir(), "axe-core": AXE.is_file()}
    absent = ", ".join(name for name, here in found.items() if not here)
    return f"not installed: {absent} (.ci/install/chromium.sh)" if absent else ""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A Browser of Playwright."""
    sys.path.append(str(CACHE / "python"))  # at the end: what it shares with the gateway is not replaced
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()
