"""The page where something is odd: payloads, names, a gateway that goes away, and keys that may less than before."""

from __future__ import annotations

import re
import signal

import httpx
import pytest

from tests.api.keyring import Keyring
from tests.lab.gateway import running
from tests.ui.test_keys_and_servers import enter
from tests.ui.test_page import button, enqueue, expect, open_queue

pytestmark = pytest.mark.slow

JSON = {"content-type": "application/json"}
LONG = "q" * 200
GONE = re.compile(r"Failed to load resource: (net::ERR_|the server responded with a status of [45]\d\d)")
"""What Chromium writes while the gateway is away."""
PAYLOADS = {
    "html": (b"<script>document.title = 'bad'</script><img src=x onerror=alert(1)>", {"content-type": "text/html"}),
    "null": (b"null", JSON),
    "exact": (b'{"price": 1.10, "big": 12345678901234567890}', JSON),
    "binary": (bytes(range(256)), {"content-type": "application/octet-stream"}),
    "large": (b'["' + b"x" * 1_000_000 + b'"]', JSON),
    "words": ('"Grüße, 世界"'.encode(), JSON),
}
SHOWN: dict[str, str | re.Pattern[str]] = {
    "html": "<script>document.title = 'bad'</script><img src=x onerror=alert(1)>",
    "null": "null",
    "exact": '{\n  "price": 1.10,\n  "big": 12345678901234567890\n}',
    "binary": re.compile(r"^000000  00 01 02 .*  \.{16}\n000010  10 11"),
    "large": re.compile(r"^\[\n  \"x{65000}x*\n\.\.\. 934,472 more characters$", re.DOTALL),
    "words": '"Grüße, 世界"',
}


def refuse(http: httpx.Client, queue: str) -> None:
    """The job at the head becomes a dead letter."""
    lease = http.get(f"/queues/{queue}/next?timeout=20").headers["lease-id"]
    http.post(f"/leases/{lease}/reject", json={"reason": "<b>bold</b>"}).raise_for_status()


def test_any_payload_is_shown_as_what_it_is(gateway, http, open_page):
    """At the head of a queue and as a dead letter: text is text, other bytes are hex, numbers keep their digits."""
    page = open_page(gateway.url + "/ui/")
    for name, (body, headers) in PAYLOADS.items():
        queue = f"odd-{name}"
        http.post(f"/queues/{queue}/jobs", content=body, headers=headers).raise_for_status()
        page.goto(f"{gateway.url}/ui/#/queues/{queue}")
        page.locator("h1", has_text=queue).wait_for()
        button(page, "Peek").click()
        payload = page.get_by_label("Payload", exact=True)
        payload.wait_for()
        found = [payload.text_content()]
        refuse(http, queue)
        button(page, "Refresh").click()
        page.locator("#dead-letters tbody button").click()
        dialog = page.get_by_role("dialog")
        shown = dialog.get_by_label("Payload", exact=True)
        shown.wait_for()
        found.append(shown.text_content())
        button(dialog, "Close").click()
        for text in found:
            expected = SHOWN[name]
            assert text == expected if isinstance(expected, str) else expected.match(text), (name, text[:200])
        assert "<b>bold</b>" in page.locator("#dead-letters tbody").inner_text()
    assert page.title() != "bad"


@pytest.mark.parametrize("name", ["Grüße", "a b", LONG, "%", "a+b+c"])
def test_a_name_that_is_not_allowed_is_explained(gateway, open_page, name):
    """The page says why there is no such queue, and has no error of its own."""
    page = open_page(gateway.url + "/ui/#/queues/" + name)
    page.get_by_role("heading", name="Not the name of a queue").wait_for()
    page.get_by_text("use 1 to 64 characters").wait_for()
    assert page.locator("section").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_gateway_that_goes_away_and_returns(tmp_path, open_page):
    """The page says so, keeps its figures, and shows everything when the gateway is back, without a click."""
    with running(tmp_path / "data") as gateway, gateway.client() as http:
        enqueue(http, "steady", 2)
        enqueue(http, "other", 1)
        page = open_queue(lambda url: open_page(url, quiet=GONE), gateway, "steady")
        page.get_by_text("max_attempts").wait_for()
        waiting = page.locator(".totals dd").first
        expect(waiting, "2")
        gateway.kill()
        expect(page.locator("#live"), "Connection lost, trying again")
        expect(waiting, "2")
        button(page, "Flush").click()
        button(page, "Flush steady").click()
        page.get_by_role("dialog").get_by_text("The gateway cannot be reached").wait_for()
        button(page, "Cancel").click()
        other = f"{gateway.url}/ui/#/queues/other"
        page.evaluate("(url) => { location.href = url; }", other)
        page.locator("h1", has_text="other").wait_for()
        page.locator("section", has=page.get_by_role("heading", name="Policy")).get_by_text(
            "cannot be reached"
        ).wait_for()
        gateway.start()
        expect(page.locator("#live"), "Live")
        page.get_by_text("max_attempts").wait_for()
        page.get_by_text("There are no dead letters.").wait_for()
        page.close()


def test_a_key_that_loses_a_scope(tmp_path, open_page):
    """The page then shows what the key may still do; when the key is gone, the page asks for one and says why."""
    ring = Keyring(tmp_path / "keys.toml")
    ring.add("boss", "acme")
    with running(tmp_path / "data", "--keys", str(ring.path)) as gateway, ring.client(gateway, "boss") as http:
        enqueue(http, "orders", 2)
        page = open_page(gateway.url + "/ui/#/queues/orders")
        enter(page, ring.secrets["boss"])
        button(page, "Flush").wait_for()
        text = ring.path.read_text()
        ring.path.write_text(re.sub(r"scopes = \[[^]]*\]", 'scopes = ["observe"]', text))
        gateway.process.send_signal(signal.SIGHUP)
        button(page, "Flush").wait_for(state="detached")
        page.get_by_text("max_attempts").wait_for()
        expect(page.locator(".totals dd").first, "2")
        ring.remove("boss")
        gateway.process.send_signal(signal.SIGHUP)
        page.get_by_label("Key", exact=True).wait_for()
        page.get_by_text("the key is unknown").wait_for()
        page.close()


def test_a_rate_limit_is_named(tmp_path, open_page):
    """A key whose only request for a long time asks who it is: the page says why it has no figures."""
    ring = Keyring(tmp_path / "keys.toml")
    ring.add("slow", "acme", "observe", rate=0.001, burst=1)
    with running(tmp_path / "data", "--keys", str(ring.path)) as gateway:
        page = open_page(gateway.url + "/ui/")
        enter(page, ring.secrets["slow"])
        expect(page.locator("#live"), "Too many requests, trying again")
        page.close()
