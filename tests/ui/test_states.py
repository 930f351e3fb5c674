"""The page names what it shows: queues that are empty or missing, filters that are wrong, units of figures."""

import itertools
import re

import pytest

from tests.ui.test_page import button, cell, dead, enqueue, expect, expect_all, open_queue

pytestmark = pytest.mark.slow

DRAW_AXES = """async (highest) => {
  const { Chart } = await import("./charts.js");
  const formats = await import("./format.js");
  const drawn = [];
  const { fillText } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
    drawn.push(text);
    return fillText.call(this, text, ...rest);
  };
  const found = [];
  for (const [format, most] of highest) {
    const chart = new Chart("Test", [{ label: "test", colour: "in", column: "value", format: formats[format] }]);
    document.body.append(chart.element);
    drawn.length = 0;
    const now = Date.now() / 1000;
    chart.show({ at: [now - 60, now], value: [0, most] });
    await new Promise(requestAnimationFrame);
    found.push([...new Set(drawn)].filter((text) => text && !/^\\d\\d:\\d\\d$/.test(text)));
    chart.close();
    chart.element.remove();
  }
  return found;
}"""
"""The labels of the value axis of a chart, for each format and highest value."""
NONE = "\N{EN DASH}"
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def seconds(label):
    """What the label of an axis of durations means."""
    if label == "0":
        return 0
    number, unit = label.split(" ")
    return int(number) * SECONDS[unit]


def test_a_wrong_filter_keeps_the_one_before(gateway, http, open_page):
    """The table says so, and is live."""
    enqueue(http, "filtered-a")
    enqueue(http, "filtered-b", 2)
    page = open_page(gateway.url + "/ui/")
    page.get_by_label("Filter").fill("name~filtered-* items>1")
    button(page, "Apply").click()
    rows = page.locator("tr[data-queue] th a")
    expect_all(rows, ["filtered-b"])
    page.get_by_label("Filter").fill("items>>1")
    button(page, "Apply").click()
    page.get_by_text("The table still shows “name~filtered-* items>1”.").wait_for()
    expect(page.locator("#live"), "Live")
    enqueue(http, "filtered-a", 2)
    expect_all(rows, ["filtered-a", "filtered-b"])
    assert page.get_by_text("The table still shows").is_visible()
    page.get_by_label("Filter").fill("name=filtered-a")
    button(page, "Apply").click()
    expect_all(rows, ["filtered-a"])
    assert not page.get_by_text("The table still shows").is_visible()


@pytest.mark.parametrize("name", ["never", "later", "never+copies"])
def test_a_queue_that_does_not_exist_offers_only_a_first_job(gateway, http, open_page, name):
    """No empty card and no action on nothing. A queue with only delayed jobs looks the same, and the page says so."""
    if name == "later":
        http.post(f"/queues/{name}/jobs?delay=3600", json=1).raise_for_status()
        detail = http.get(f"/queues/{name}").json()["detail"]
        assert detail == "there is no queue 'later', or it has only delayed jobs"
    page = open_queue(open_page, gateway, name)
    page.get_by_text("does not exist, or it has only delayed jobs").wait_for()
    page.get_by_text("max_attempts").wait_for()
    first = [] if "+" in name else ["Enqueue a job"]
    assert page.locator(".actions button").all_inner_texts() == first
    shown = [each.inner_text() for each in page.locator("h2").all() if each.is_visible()]
    assert shown == ["Policy"]
    assert not page.locator("figure").first.is_visible()
    if first:
        enqueue(http, name)
        page.get_by_role("heading", name="Next job").wait_for()
        button(page, "Flush").wait_for()
        assert page.locator("figure").first.is_visible()


def test_dead_letters_of_a_queue_that_is_gone_are_shown(gateway, http, open_page):
    """A queue can be deleted before they are redriven."""
    dead(http, "gone")
    http.delete("/queues/gone").raise_for_status()
    page = open_queue(open_page, gateway, "gone")
    page.get_by_text("does not exist, or it has only delayed jobs").wait_for()
    button(page, "Redrive all").wait_for()


def test_the_labels_of_an_axis_are_exact(gateway, open_page):
    """The steps between them are equal, and they are whole seconds, minutes, hours or days of one unit."""
    page = open_page(gateway.url + "/ui/")
    highest = [0, 0.5, 29, 90, 400, 1500, 5000, 30_000, 100_000, 400_000, 3_000_000]
    for most, labels in zip(highest, page.evaluate(DRAW_AXES, [["duration", each] for each in highest]), strict=True):
        found = [seconds(label) for label in labels]
        steps = {after - before for before, after in itertools.pairwise(found)}
        assert len(steps) == 1, (most, labels)
        assert len({label.split(" ")[1] for label in labels if label != "0"}) == 1, (most, labels)
    small, large = page.evaluate(DRAW_AXES, [["rate", 1], ["rate", 12]])
    assert small == ["0", "0.5", "1.0"]
    assert large == ["0", "5", "10"]


def test_names_units_and_numbers_are_those_of_what_is_shown(gateway, http, open_page):
    """The sizes of a dead letter and of a payload, times in 24 hours, one letter, a queue without jobs."""
    dead(http, "named")
    page = open_page(gateway.url + "/ui/#/queues/named", locale="en-US")
    page.locator("#dead-letters tbody tr").wait_for()
    heads = page.locator("#dead-letters th[scope=col]").all_inner_texts()
    assert heads[-1] == "Stored size"
    assert not re.search("[AP]M", page.locator("#dead-letters tbody").inner_text())
    assert button(page, "Redrive selected").is_disabled()
    assert button(page, "Delete selected").is_disabled()
    page.locator("#dead-letters tbody input").check()
    for name, text in (
        ("Redrive 1 selected", "It goes back to its queue as a new job."),
        ("Delete 1 selected", "It is deleted for good."),
        ("Redrive all", "1 dead letter goes back to its queue as a new job."),
    ):
        button(page, name).click()
        page.get_by_role("dialog").get_by_text(text, exact=True).wait_for()
        button(page, "Cancel").click()
    oldest = page.locator(".totals div", has_text="Oldest").locator("dd")
    expect(oldest, NONE)
    policy = page.locator("section", has=page.get_by_role("heading", name="Policy"))
    values = dict(
        zip(policy.locator("dt").all_inner_texts(), policy.locator("dd").all_inner_texts(), strict=True),
    )
    assert values["dead_letter"] == "this queue's own dead letters"
    assert values["key"] == "the name of the queue"
    assert values["rate"] == values["max_in_flight"] == "no limit"
    enqueue(http, "named")
    button(page, "Peek").click()
    page.get_by_text("Payload size", exact=True).wait_for()
    page.set_viewport_size({"width": 390, "height": 800})
    table = page.locator("#dead-letters .scroll")
    assert table.evaluate("each => each.scrollWidth > each.clientWidth")
    assert table.evaluate("each => getComputedStyle(each).backgroundAttachment") == "local, local, scroll, scroll"


def test_an_opened_queue_has_no_ring_and_equal_values_keep_the_order_of_names(gateway, http, open_page):
    """The focus is on the content, without an outline around it."""
    for each in "abc":
        enqueue(http, f"equal-{each}")
    page = open_page(gateway.url + "/ui/")
    page.get_by_label("Filter").fill("name~equal-*")
    page.keyboard.press("Enter")
    rows = page.locator("tr[data-queue] th a")
    expect_all(rows, ["equal-a", "equal-b", "equal-c"])
    for _ in range(2):
        button(page, "Waiting").click()
        expect_all(rows, ["equal-a", "equal-b", "equal-c"])
    http.get("/queues/equal-a/next?timeout=5&ack=auto").raise_for_status()
    expect(cell(page, "equal-a", "Oldest"), NONE)
    rows.first.focus()
    page.keyboard.press("Enter")
    page.locator("h1", has_text="equal-").wait_for()
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "none"
