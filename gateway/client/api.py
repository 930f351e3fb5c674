"""Calls to the gateway from a command: one connection, calls that are repeated while that can help."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from gateway import __version__
from gateway.client import failures
from gateway.client.failures import CallFailed
from gateway.client.target import Target

CONNECT_S: Final = 5.0
"""Connecting takes a few seconds at most. Source: clients/timeouts-and-retries.md."""
ANSWER_S: Final = 30.0
"""Longer than any call but a poll takes: a redrive takes up to 20 s. Source: openapi.yaml."""
MARGIN_S: Final = 10.0
"""How much longer than its wait a poll may take: the gateway answers first. Source: clients/timeouts-and-retries.md."""


def settings(target: Target) -> dict[str, Any]:
    """How httpx reaches the target, blocking or not.

    Proxy variables and ~/.netrc are not used: the gateway is in the same network, and a key is given on purpose.
    """
    headers = {"User-Agent": f"kestrel-gateway/{__version__}"}
    if target.key:
        headers["Authorization"] = f"Bearer {target.key}"
    return {
        "base_url": target.url,
        "headers": headers,
        # The system's certificate authorities, as curl has them. Loading them takes 20 ms, which plain HTTP saves.
        "verify": ssl.create_default_context() if target.url.startswith("https:") else False,
        "trust_env": False,
        "timeout": httpx.Timeout(ANSWER_S, connect=CONNECT_S),
    }


def queue_path(queue: str) -> str:
    """The path of a queue. The gateway checks the name."""
    return "/queues/" + quote(queue, safe="+")


class GatewayApi:
    """Calls to the gateway.

    retry_s: how long a call is repeated. notice: gets one line before each further attempt. coverage: how many Kestrel
    servers took part, such as 1/2, in the last answer for which not all of them did; empty if there is none.
    """

    def __init__(self, target: Target, retry_s: float, notice: Callable[[str], None]) -> None:
        self.url = target.url
        self.coverage = ""
        self._http = httpx.Client(**settings(target))
        self._retry_s = retry_s
        self._notice = notice

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def may_wait(self, waited_s: float, pause_s: float) -> bool:
        """Whether a caller that has tried again for `waited_s` may do so after `pause_s`."""
        return waited_s + pause_s <= self._retry_s

    def call(self, method: str, path: str, *, wait_s: float = 0, **options: Any) -> httpx.Response:
        """A successful answer. wait_s: how long a poll waits at the gateway. options: those of httpx.

        Raises CallFailed.
        """
        ends_s = time.monotonic() + self._retry_s
        tries = 0
        while True:
            try:
                return self._once(method, path, wait_s, **options)
            except CallFailed as failed:
                tries += 1
                pause_s = failed.retry_after_s + failures.pause_s(tries)
                if not failed.retryable or time.monotonic() + pause_s > ends_s:
                    raise
                self._notice(f"{failed}; next try in {pause_s:.1f} s")
                time.sleep(pause_s)

    def is_raw(self, queue: str) -> bool:
        """Whether the queue stores payloads only. False if it cannot be seen, as with a key that may only produce.

        Raises CallFailed.
        """
        try:
            return bool(self.call("GET", f"{queue_path(queue)}/policy").json()["format"] == "raw")
        except CallFailed as failed:
            if failed.status in (400, 403, 404):
                return False
            raise

    def _once(self, method: str, path: str, wait_s: float, **options: Any) -> httpx.Response:
        if wait_s:
            options["timeout"] = httpx.Timeout(wait_s + MARGIN_S, connect=CONNECT_S)
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as exc:
            raise failures.no_answer(exc, self.url) from exc
        except httpx.InvalidURL as exc:
            raise CallFailed("invalid-url", f"{self.url}: {exc}", status=0, retryable=False) from exc
        if not answer.is_success:
            raise failures.of_answer(answer.status_code, answer.headers, answer.content)
        self.coverage = answer.headers.get("queue-coverage", self.coverage)
        return answer
