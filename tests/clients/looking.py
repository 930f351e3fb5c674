"""Jobs as lines for a producer, and what a queue says of itself."""

from __future__ import annotations

import json
import time

import httpx


def lines(*jobs: object) -> list[str]:
    return [json.dumps(job, ensure_ascii=False) for job in jobs]


def await_figures(http: httpx.Client, queue: str, **figures: int) -> None:
    """Returns when the queue has these figures."""
    deadline_s = time.monotonic() + 60
    while True:
        queue_now = http.get(f"/queues/{queue}").json()
        if figures.items() <= queue_now.items():
            return
        assert time.monotonic() < deadline_s, queue_now
        time.sleep(0.02)
