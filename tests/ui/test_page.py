"""The page in a browser, as its reader uses it, against a gateway with the embedded broker."""

import pytest

pytestmark = pytest.mark.slow

WATCH_MARKS = """() => {
  window.marked = new Set();
  const note = ({ target }) => target.classList.contains("changed") && window.marked.add(target.dataset.label);
  const observer = new MutationObserver((all) => all.forEach(note));
  observer.observe(document.querySelector("tbody"), { attributes: true, subtree: true });
}"""


def enqueue(http, queue, count=1):
    for number in range(count):
        http.post(f"/queues/{queue}/jobs", json={"to": "ada@example.org", "number": number}).raise_for_status()


def dead(http, queue, reason="no such user"):
    """One more dead letter."""
    enqueue(http, queue)
    taken = http.get(f"/queues/{queue}/next?timeout=5").json()
    http.post(f"/leases/{taken['lease']['id']}/reject", json={"reason": reason}).raise_for_status()


def row(page, queue):
    return page.locator(f'tr[data-queue="{queue}"]')


def cell(page, queue, label):
    return row(page, queue).locator(f'td[data-label="{label}"]')


def expect(found, text):
    """Waits until the element has the text."""
    from playwright.sync_api import expect as waits

    waits(found).to_have_text(text, timeout=20_000)


def test_the_table_is_live(gateway, http, open_page):
    """New queues and figures appear by themselves, the changed ones are marked, and a pause stops both."""
    enqueue(http, "live-a", 2)
    page = open_page(gateway.url + "/")
    assert page.url.endswith("/ui/")
    expect(cell(page, "live-a", "Waiting"), "2")
    page.evaluate(WATCH_MARKS)
    enqueue(http, "live-a", 3)
    enqueue(http, "live-b")
    expect(cell(page, "live-a", "Waiting"), "5")
    expect(cell(page, "live-b", "Waiting"), "1")
    assert "Waiting" in page.evaluate("[...window.marked]")
    page.keyboard.press("p")
    expect(page.locator("#live"), "Paused")
    enqueue(http, "live-a")
    page.wait_for_timeout(3000)  # longer than a round: nothing may change
    expect(cell(page, "live-a", "Waiting"), "5")
    page.get_by_role("button", name="Resume").click()
    expect(cell(page, "live-a", "Waiting"), "6")
    expect(page.locator("#live"), "Live")
