"""Makes the pictures in docs/images: `make screenshots`. They show a gateway with jobs, leases and dead letters."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.lab.gateway import ROOT, running
from tests.ui.browser import chromium, missing

IMAGES = ROOT / "docs/images"
WIDE, PHONE = {"width": 1280, "height": 720}, {"width": 390, "height": 720}
QUEUES = {
    "emails": 34,
    "invoices": 120,
    "img-resize": 12,
    "img-thumbnails": 260,
    "reports": 3,
    "webhooks": 58,
    "search": 0,
}


def seed(http) -> None:
    """Jobs, leases, dead letters, a pause and a subscription."""
    for queue, count in QUEUES.items():
        for number in range(count + 2):
            http.post(f"/queues/{queue}/jobs", json={"to": "ada@example.org", "number": number})
        taken = http.get(f"/queues/{queue}/next?timeout=5").json()
        http.post(f"/leases/{taken['lease']['id']}/ack")
    for reason in ("no such user", "mailbox full", "no such user"):
        taken = http.get("/queues/emails/next?timeout=5").json()
        http.post(f"/leases/{taken['lease']['id']}/reject", json={"reason": reason})
    for queue in ("emails", "emails", "invoices"):
        http.get(f"/queues/{queue}/next?timeout=5&lease_seconds=600")
    http.put("/queues/webhooks/pause", json={"reason": "maintenance"})
    http.put("/queues/emails/subscriptions/audit")


def work(http, seconds: float, enough: threading.Event | None = None) -> None:
    """Some traffic, so that the rates and charts show something. enough: ends it earlier."""
    ends_s = time.monotonic() + seconds
    turn = 0
    while time.monotonic() < ends_s and not (enough and enough.is_set()):
        turn += 1
        for queue in ("emails", "img-thumbnails", "search")[: 1 + turn % 3]:
            http.post(f"/queues/{queue}/jobs", json={"to": "ada@example.org", "number": turn})
            if turn % 4:
                taken = http.get(f"/queues/{queue}/next?timeout=5").json()
                http.post(f"/leases/{taken['lease']['id']}/ack")
        time.sleep(0.1)


def shoot(
    browser, url: str, name: str, path: str, *, wait: str, size=WIDE, scheme: str = "light", scroll: int = 0
) -> None:
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.goto(url + path)
    page.locator(wait).first.wait_for()
    page.wait_for_timeout(4000)
    page.mouse.wheel(0, scroll)
    page.wait_for_timeout(300)
    page.screenshot(path=IMAGES / f"{name}.png")
    page.close()


def main() -> int:
    if reason := missing():
        print(f"screenshots: {reason}", file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "data") as gateway, gateway.client() as http:
        seed(http)
        work(http, 60)
        enough = threading.Event()
        traffic = threading.Thread(target=work, args=(gateway.client(), 60, enough))
        traffic.start()
        with chromium() as browser:
            row = 'tr[data-queue="emails"]'
            shoot(browser, gateway.url, "page-queues", "/ui/", wait=row)
            shoot(browser, gateway.url, "page-queues-dark", "/ui/", wait=row, scheme="dark")
            queue = "#dead-letters tbody tr"
            shoot(browser, gateway.url, "page-queue", "/ui/#/queues/emails", wait=queue)
            shoot(browser, gateway.url, "page-phone", "/ui/", wait=row, size=PHONE)
        enough.set()
        traffic.join()
    for path in IMAGES.glob("page-*.png"):
        subprocess.run(["pngquant", "--force", "--ext", ".png", "--quality", "70-95", path], check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
