"""A browser, and pages that fail their test when the browser reports an error."""

import os
import re
from typing import Any

import pytest

from tests.lab.gateway import running
from tests.ui import browser as lab

QUIET = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
"""What Chromium writes for every 4xx, also for those that the page expects and shows."""


@pytest.fixture(scope="session")
def browser():
    """Chromium; missing, the test is skipped at home and fails in CI."""
    reason = lab.missing()
    if reason:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with lab.chromium() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """One of each file alone: with many queues of others, a test's own rows are not in view, and so do not exist."""
    with running(tmp_path_factory.mktemp("pages") / "data") as shared:
        yield shared


@pytest.fixture
def open_page(browser):
    """Opens pages. In the end none has had an error, a warning of the policy, or a request to another host.

    quiet: what the browser may report."""
    contexts: list[Any] = []
    faults: list[str] = []

    def note(text, bad=True, quiet=QUIET):
        if bad and not quiet.match(text):
            faults.append(text)

    def opened(url, quiet=QUIET, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        own = "/".join(url.split("/")[:3])
        page.on("console", lambda message: note(message.text, message.type in {"error", "warning"}, quiet))
        page.on("pageerror", lambda error: note(str(error)))
        page.on("request", lambda request: note(request.url, not request.url.startswith(own)))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []
