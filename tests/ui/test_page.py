"""The page in a browser, as its reader uses it, against a gateway with the embedded broker."""

import subprocess

import pytest

from tests.lab.gateway import running

pytestmark = pytest.mark.slow

WATCH_MARKS = """() => {
  window.marked = new Set();
  const note = ({ target }) => target.classList.contains("changed") && window.marked.add(target.dataset.label);
  const observer = new MutationObserver((all) => all.forEach(note));
  observer.observe(document.querySelector("tbody"), { attributes: true, subtree: true });
}"""

COUNT_LAYOUTS = """() => {
  window.forced = 0;
  const { get } = Object.getOwnPropertyDescriptor(HTMLElement.prototype, "offsetWidth");
  Object.defineProperty(HTMLElement.prototype, "offsetWidth", { get() { window.forced += 1; return get.call(this); } });
}"""
"""Counts how often the page asks for the size of an element: each time the browser computes the whole layout."""

WATCH_TOTALS = """() => {
  window.totals = new Set();
  const note = () => window.totals.add(document.querySelector(".totals dd").textContent);
  new MutationObserver(note).observe(document.querySelector(".totals"), { childList: true });
}"""

WATCH_TASKS = """() => {
  window.made = 0;
  const create = document.createElement.bind(document);
  document.createElement = (...all) => { window.made += 1; return create(...all); };
  window.longest = 0;
  const note = ({ duration }) => { window.longest = Math.max(window.longest, duration); };
  new PerformanceObserver((list) => list.getEntries().forEach(note)).observe({ type: "longtask" });
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

    waits(found).to_have_text(text, timeout=60_000)


def expect_all(found, texts):
    """Waits until the elements have these texts."""
    from playwright.sync_api import expect as waits

    waits(found).to_have_text(texts, timeout=60_000)


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


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def open_queue(open_page, gateway, queue):
    page = open_page(f"{gateway.url}/ui/#/queues/{queue}")
    page.locator("h1", has_text=queue).wait_for()
    return page


def test_the_table_is_filtered_and_sorted(gateway, http, open_page):
    """With the conditions of `GET /queues`; a wrong one is explained. Every head of a column sorts."""
    for name, count in (("sort-a", 1), ("sort-b", 3), ("sort-c", 2)):
        enqueue(http, name, count)
    page = open_page(gateway.url + "/ui/")
    held = []
    page.route("**/ui/session", lambda route: held.append(route))  # noqa: PLW0108 (Playwright sets an attribute of it)
    page.reload()
    page.keyboard.press("/")  # before the page knows what it may show
    while not held:
        page.wait_for_timeout(20)
    held[0].continue_()
    page.locator("#filter:focus").wait_for()
    page.keyboard.type("name~sort-*")
    page.keyboard.press("Enter")
    rows = page.locator("tr[data-queue] th a")
    expect_all(rows, ["sort-a", "sort-b", "sort-c"])
    for head, order in (("Waiting", "bca"), ("Waiting", "acb"), ("Queue", "abc"), ("Queue", "cba")):
        button(page, head).click()
        expect_all(rows, [f"sort-{each}" for each in order])
        direction = "descending" if order in {"bca", "cba"} else "ascending"
        assert page.locator("th", has=button(page, head)).get_attribute("aria-sort") == direction
    for head in ("Oldest", "In/s", "Out/s", "Leased", "Waiters", "Dead", "Size"):
        button(page, head).click()
        assert page.locator("th[aria-sort]").inner_text() == head
    page.get_by_label("Filter").fill("items>2 name~sort-*")
    button(page, "Apply").click()
    expect_all(rows, ["sort-b"])
    page.get_by_label("Filter").fill("items")
    button(page, "Apply").click()
    page.get_by_text("is not a field, a comparison and a value").wait_for()


def test_a_job_is_enqueued_looked_at_and_copied(gateway, http, open_page):
    """JSON is shown with its own numbers, other bytes as hex; the command does what the page does and has no key."""
    page = open_queue(open_page, gateway, "look")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button(page, "Enqueue a job").click()
    page.get_by_role("textbox", name="Payload").fill('{"price": 1.10, "big": 12345678901234567890}')
    button(page.get_by_role("dialog"), "Copy as curl").click()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("curl -sS -X POST -H 'Content-Type: application/json' --data-binary ")
    button(page, "Enqueue").click()
    page.get_by_text("is enqueued on look").wait_for()
    job = http.get("/queues/look/peek?format=raw")
    assert job.text == '{"price": 1.10, "big": 12345678901234567890}'
    button(page, "Peek").click()
    expect(page.get_by_label("Payload", exact=True), '{\n  "price": 1.10,\n  "big": 12345678901234567890\n}')
    button(page, "Hex").click()
    assert (
        page.get_by_label("Payload", exact=True)
        .inner_text()
        .startswith("000000  7b 22 70 72 69 63 65 22 3a 20 31 2e 31 30 2c 20")
    )
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=20)
    assert http.get("/queues/look").json()["items"] == 2


def test_what_changes_a_queue_asks_first_and_names_it(gateway, http, open_page):
    """Pause, resume, flush and delete; after Cancel or Escape nothing has changed."""
    enqueue(http, "asked", 2)
    page = open_queue(open_page, gateway, "asked")
    dialog = page.get_by_role("dialog")
    for action, yes in (("Pause delivery", "Pause asked"), ("Flush", "Flush asked"), ("Delete", "Delete asked")):
        for end in (lambda: button(page, "Cancel").click(), lambda: page.keyboard.press("Escape")):
            button(page, action).click()
            assert "“asked”" in dialog.locator("h2").inner_text()
            assert button(page, yes).is_visible()
            assert page.evaluate("document.activeElement.textContent") == "Cancel"
            end()
            dialog.wait_for(state="detached")
    figures = http.get("/queues/asked").json()
    assert (figures["items"], "pause" in figures) == (2, False)
    button(page, "Pause delivery").click()
    page.get_by_label("Reason").fill("maintenance")
    button(page, "Pause asked").click()
    page.locator(".title .mark.paused").wait_for()
    assert http.get("/queues/asked").json()["pause"]["reason"] == "maintenance"
    button(page, "Resume").last.click()
    button(page, "Resume asked").click()
    page.locator(".title .mark.paused").wait_for(state="detached")
    button(page, "Flush").click()
    button(page, "Flush asked").click()
    page.get_by_text("asked is empty").wait_for()
    assert http.get("/queues/asked").json()["items"] == 0
    button(page, "Delete").click()
    button(page, "Delete asked").click()
    page.get_by_text("asked is deleted").wait_for()
    assert http.get("/queues/asked").status_code == 404
    assert page.url.endswith("#/")


def test_dead_letters_are_redriven_and_deleted(gateway, http, open_page):
    """One, some and all, with their reasons and payloads."""
    for number in range(5):
        dead(http, "letters", f"reason {number}")
    page = open_queue(open_page, gateway, "letters")
    section = page.locator("#dead-letters")
    rows = section.locator("tbody tr")
    rows.nth(4).wait_for()
    assert ["rejected" in text and "reason " in text for text in rows.all_inner_texts()] == [True] * 5
    rows.nth(0).get_by_role("button").click()
    expect(
        page.get_by_role("dialog").get_by_label("Payload", exact=True),
        '{\n  "to": "ada@example.org",\n  "number": 0\n}',
    )
    button(page, "Close").click()
    rows.nth(0).get_by_role("checkbox").check()
    button(page, "Redrive 1 selected").click()
    assert "“letters”" in page.get_by_role("dialog").inner_text()
    button(page, "Redrive 1 dead letter").click()
    page.get_by_role("dialog").wait_for(state="detached")
    assert (rows.count(), http.get("/queues/letters").json()["items"]) == (4, 1)
    rows.nth(0).get_by_role("checkbox").check()
    rows.nth(1).get_by_role("checkbox").check()
    button(page, "Delete 2 selected").click()
    button(page, "Delete 2 dead letters").click()
    page.get_by_role("dialog").wait_for(state="detached")
    assert (rows.count(), http.get("/queues/letters").json()["items"]) == (2, 1)
    button(page, "Redrive all").click()
    button(page, "Redrive all of letters").click()
    page.get_by_role("dialog").wait_for(state="detached")
    assert http.get("/queues/letters").json()["items"] == 3
    dead(http, "letters")
    button(page, "Refresh").click()
    button(page, "Delete all").click()
    button(page, "Delete all of letters").click()
    page.get_by_text("There are no dead letters.").wait_for()
    assert http.get("/queues/letters/dead-letters").json()["items"] == 0


def test_a_queue_shows_leases_subscriptions_policy_and_charts(gateway, http, open_page):
    """All that is known of it."""
    http.put("/queues/whole/subscriptions/audit").raise_for_status()
    enqueue(http, "whole", 3)
    taken = http.get("/queues/whole/next?timeout=5").json()
    page = open_queue(open_page, gateway, "whole")
    lease = page.locator("section", has=page.get_by_role("heading", name="Open leases")).locator("tbody tr")
    lease.wait_for()
    text = lease.inner_text()
    assert taken["lease"]["id"][16:24] in text
    assert taken["lease"]["id"] not in page.content()
    assert "no key" in text
    assert taken["id"] in text
    page.get_by_role("link", name="whole+audit").wait_for()
    page.get_by_text("max_attempts").wait_for()
    assert page.locator(".plot canvas").count() == 3
    page.locator("figure.chart p", has_text="Jobs, last hour. Now waiting: 2, leased: 1.").wait_for(state="attached")


def test_the_keyboard_is_enough(gateway, http, open_page):
    """From the skip link to a queue and back; the arrow keys also reach rows that are not in view."""
    for number in range(60):
        enqueue(http, f"keys-{number:02}")
    page = open_page(gateway.url + "/ui/")
    page.get_by_label("Filter").fill("name~keys-*")
    page.keyboard.press("Enter")
    expect(page.locator(".totals dd").first, "60")
    page.evaluate("document.activeElement.blur()")
    page.locator("tr[data-queue] a").first.focus()
    for key, queue in (("ArrowDown", "keys-01"), ("End", "keys-59"), ("ArrowUp", "keys-58"), ("Home", "keys-00")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.textContent") == queue
        assert page.evaluate("document.activeElement.getBoundingClientRect().top") > 0
    page.keyboard.press("Enter")
    page.locator("h1", has_text="keys-00").wait_for()
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Shift+Tab")
    page.reload()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_thousand_queues_cost_what_forty_do(tmp_path, open_page):
    """Only the rows in view exist, also while they change, and they stay where they are when the stream begins again.

    The browser computes no layout for a single cell, and scrolling makes no rows: those that leave are used again."""
    with running(tmp_path / "data") as gateway, gateway.client() as http:
        for number in range(1000):
            http.post(f"/queues/many-{number:04}/jobs?receipt=none", json=number).raise_for_status()
        page = open_page(gateway.url + "/ui/")
        expect(page.locator(".totals dd").first, "1,000")
        page.evaluate(WATCH_TASKS)
        page.mouse.move(600, 600)
        made = []
        for _ in range(30):
            page.mouse.wheel(0, 600)
            page.evaluate("new Promise(requestAnimationFrame)")
            made.append(page.evaluate("window.made"))
        assert page.evaluate("scrollY") > 5000
        assert made[-1] - made[9] < 100, made  # a row or two; for the 300 rows that came into view it would be 4,000
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        row(page, "many-0999").wait_for()
        place = page.evaluate("scrollY")
        page.keyboard.press("p")
        expect(page.locator("#live"), "Paused")
        for number in range(900, 1000):
            http.post(f"/queues/many-{number:04}/jobs?receipt=none", json=number).raise_for_status()
        page.evaluate(COUNT_LAYOUTS)
        page.evaluate(WATCH_TOTALS)
        page.keyboard.press("p")
        expect(cell(page, "many-0999", "Waiting"), "2")
        assert page.evaluate("scrollY") == place
        assert page.evaluate("[...window.totals]") == ["1,000"]
        assert page.locator("tr[data-queue] .changed").count() > 20
        assert page.evaluate("window.forced") == 0
        assert page.locator("tr[data-queue]").count() < 60
        assert page.locator("table").get_attribute("aria-rowcount") == "1001"
        print("longest task, ms:", page.evaluate("window.longest"))
        page.close()


def test_a_full_queue_is_marked(tmp_path, open_page):
    """In the table and on its own page, from the first job that it refuses to the next one that it stores."""
    limits = tmp_path / "broker.toml"
    limits.write_text("[queues.tiny]\nmax_items = 1\n")
    with running(tmp_path / "data", "--broker-config", str(limits)) as gateway, gateway.client() as http:
        enqueue(http, "tiny")
        page = open_page(gateway.url + "/ui/")
        expect(cell(page, "tiny", "Waiting"), "1")
        assert page.locator(".mark").count() == 0
        assert http.post("/queues/tiny/jobs", json=2).json()["code"] == "queue-full"
        expect(row(page, "tiny").locator(".mark.full"), "full")
        page.get_by_role("link", name="tiny").click()
        expect(page.locator(".title .mark.full"), "full")
        http.get("/queues/tiny/next?timeout=5&ack=auto").raise_for_status()
        enqueue(http, "tiny")
        page.locator(".title .mark.full").wait_for(state="detached")
        page.get_by_role("link", name="All queues").click()
        expect(cell(page, "tiny", "Waiting"), "1")
        assert page.locator(".mark").count() == 0
        page.close()


@pytest.mark.parametrize("flags", [("--ui", "read-only", "--ui-payloads", "hidden")])
def test_the_operator_limits_the_page(tmp_path, open_page, flags):
    """No action, and no payload."""
    with running(tmp_path / "data", *flags) as gateway, gateway.client() as http:
        dead(http, "calm")
        enqueue(http, "calm")
        page = open_queue(open_page, gateway, "calm")
        page.locator("#dead-letters tbody tr").wait_for()
        assert page.locator(".actions button").count() == 0
        assert page.locator("#dead-letters button").all_inner_texts() == ["Refresh"]
        assert page.locator("#dead-letters input").count() == 0
        button(page, "Peek").click()
        page.get_by_text("switched off the display of payloads").wait_for()
        assert "ada@example.org" not in page.content()
        page.close()


def test_the_page_works_below_a_prefix(tmp_path, open_page):
    """Every request goes below it."""
    with running(tmp_path / "data", "--root-path", "/jobs") as gateway, gateway.client() as http:
        enqueue(http, "below", 2)
        page = open_page(gateway.url + "/jobs/")
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        expect(cell(page, "below", "Waiting"), "2")
        page.get_by_role("link", name="below").click()
        page.get_by_text("max_attempts").wait_for()
        page.get_by_role("link", name="Reference").click()
        page.locator("#enqueueJob").wait_for()
        assert len(asked) > 5
        assert [url for url in asked if not url.startswith(gateway.url + "/jobs/")] == []
        page.close()
