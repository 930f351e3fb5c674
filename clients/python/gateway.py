"""Requests to the gateway, sent again while that can help. Used by producer.py and consumer.py.

GATEWAY_URL   where the gateway is (http://127.0.0.1:8080)
GATEWAY_KEY   the secret of a key, if the gateway asks for one
QUEUE         the queue (emails)
"""

import math
import os
import random
import re
import sys
import time
import urllib.parse

import httpx

WAIT_S = 20  # how long a poll waits at the gateway
TIMEOUT_S = WAIT_S + 10  # longer than the wait: the gateway always answers first


def setting(name: str, default: str, pattern: str, wanted: str) -> str:
    """The environment variable, or the default if it is absent or empty. Ends the program without a match."""
    value = os.environ.get(name) or default
    if not re.fullmatch(pattern, value):
        sys.exit(f"{name}: {value!r} is not {wanted}")
    return value


URL = setting(
    "GATEWAY_URL", "http://127.0.0.1:8080", r"https?://[^/?#@\s][^?#@\s]*", "a URL such as http://127.0.0.1:8080"
)
QUEUE_PATH = "/queues/" + urllib.parse.quote(os.environ.get("QUEUE") or "emails", safe="")

try:
    client = httpx.Client(base_url=URL, timeout=TIMEOUT_S)
    if (client.base_url.port or 0) > 65535:
        raise httpx.InvalidURL("the port is above 65535")
except httpx.InvalidURL as invalid:
    sys.exit(f"GATEWAY_URL: {URL!r} is not a URL: {invalid}")
if key := os.environ.get("GATEWAY_KEY"):
    if not re.fullmatch("[!-~]+", key):
        sys.exit("GATEWAY_KEY: a key consists of visible ASCII characters without spaces")
    client.headers["Authorization"] = f"Bearer {key}"


class Failed(Exception):
    """The gateway did not do it. `code` says why and is stable; the text is for people."""

    def __init__(self, code: str, detail: str, *, retryable: bool, retry_after_s: float = 0) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.retryable = retryable
        self.retry_after_s = retry_after_s


def call(method: str, path: str, *, give_up_s: float = math.inf, **options) -> dict | None:
    """The JSON body; None if the answer has no body. options: httpx's json, content, headers. Raises Failed."""
    give_up = time.monotonic() + give_up_s
    attempt = 0
    while True:
        try:
            return once(method, path, **options)
        except Failed as failed:
            # A random pause, longer each time, so that many clients do not come back at the same moment.
            pause_s = failed.retry_after_s + random.uniform(0, 0.2 * 2 ** min(attempt, 7))
            if not failed.retryable or time.monotonic() + pause_s > give_up:
                raise
            print(f"{failed}; next try in {pause_s:.1f} s", file=sys.stderr)
            time.sleep(pause_s)
            attempt += 1


def once(method: str, path: str, **options) -> dict | None:
    """As call, with a single try."""
    try:
        answer = client.request(method, path, **options)
    except httpx.TransportError as error:
        raise Failed("no-answer", str(error), retryable=True) from error
    if answer.is_success:
        return answer.json() if answer.content else None
    after = answer.headers.get("Retry-After", "")
    after_s = int(after) if after.isdigit() else 0
    if answer.headers.get("Content-Type", "").startswith("application/problem+json"):
        problem = answer.json()
        raise Failed(problem["code"], problem["detail"], retryable=problem["retryable"], retry_after_s=after_s)
    # A proxy on the way answered.
    retryable = answer.status_code in {429, 502, 503, 504}
    raise Failed(f"http-{answer.status_code}", answer.reason_phrase, retryable=retryable, retry_after_s=after_s)
