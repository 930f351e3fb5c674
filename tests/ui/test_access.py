"""Accessibility: axe-core finds nothing serious, in light and dark, wide and on a phone."""

import pytest

from tests.ui.browser import AXE
from tests.ui.test_page import button, dead, enqueue

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}


def findings(page, *parts):
    """What axe-core calls serious or critical, in these parts of the page. The page's policy does not apply to it."""
    context = {"include": list(parts or ["html"])}
    found = page.evaluate(f"(context) => {{ {AXE.read_text()}; return axe.run(context) }}", context)
    return [
        f"{each['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for each in found["violations"]
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


@pytest.fixture
def seeded(gateway, http):
    """A queue with everything that can be shown."""
    http.delete("/queues/seen/pause")
    enqueue(http, "seen", 3)
    dead(http, "seen")
    http.put("/queues/seen/subscriptions/audit").raise_for_status()
    http.get("/queues/seen/next?timeout=5").raise_for_status()
    http.put("/queues/seen/pause", json={}).raise_for_status()
    return gateway


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [None, PHONE], ids=["wide", "phone"])
def test_nothing_serious_is_found(seeded, open_page, scheme, size):
    """On every view, with a dialog, and in the reference; and on a phone nothing is wider than the screen."""
    page = open_page(seeded.url + "/ui/", color_scheme=scheme)
    if size:
        page.set_viewport_size(size)
    page.locator('tr[data-queue="seen"]').wait_for()
    faults = {"overview": findings(page)}
    page.goto(seeded.url + "/ui/#/queues/seen")
    page.locator("#dead-letters tbody tr").first.wait_for()
    page.get_by_text("max_attempts").wait_for()
    button(page, "Peek").click()
    page.get_by_label("Payload", exact=True).wait_for()
    faults["queue"] = findings(page)
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    button(page, "Delete").click()
    faults["dialog"] = findings(page)
    page.keyboard.press("Escape")
    page.goto(seeded.url + "/ui/#/servers")
    page.locator(".card .mark.up").wait_for()
    faults["servers"] = findings(page)
    page.goto(seeded.url + "/docs")
    page.locator("#enqueueJob").wait_for()
    # One operation and one schema: the whole document takes axe-core a minute.
    faults["reference"] = findings(page, "nav", "#enqueueJob", "#schema-Queue")
    wide = max(wide, page.evaluate("document.documentElement.scrollWidth - innerWidth"))
    assert {name: each for name, each in faults.items() if each} == {}
    assert wide <= 0
