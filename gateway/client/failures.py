"""Why a call to the gateway failed, whether it may be repeated, and how long to wait before.

The rules are those of clients/timeouts-and-retries.md. This module knows the answers and no connection.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from typing import Final

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0
"""A gateway that restarts is found at once; an unreachable one costs two requests a minute. Source: as above."""

NO_ANSWER: Final = "no-answer"
_REPEATED_FOR_PROXIES: Final = frozenset({429, 502, 503, 504})
_LONGEST_DETAIL: Final = 300
_NUMBER: Final = re.compile(r"^\[Errno -?[0-9]+\] ")


class CallFailed(Exception):
    """The gateway did not do it. `code` is stable; the text is for people.

    status: 0 if no answer came. retryable: the same call may succeed later.
    """

    def __init__(self, code: str, detail: str, *, status: int, retryable: bool, retry_after_s: float = 0) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.status = status
        self.retryable = retryable
        self.retry_after_s = retry_after_s

    @property
    def not_allowed(self) -> bool:
        """The gateway does not accept the key, or the key may not do this."""
        return self.status in (401, 403)


def no_answer(error: Exception, url: str) -> CallFailed:
    """No answer came: the gateway is unreachable, or the connection broke."""
    name = type(error).__name__
    what = _NUMBER.sub("", str(error)) or (
        "no answer in time" if "Timeout" in name else f"the connection was lost ({name})"
    )
    return CallFailed(NO_ANSWER, f"{url}: {what}", status=0, retryable=True)


def of_answer(status: int, headers: Mapping[str, str], body: bytes) -> CallFailed:
    """The failure that an answer reports. What is no problem document comes from a proxy."""
    after = retry_after_s(headers)
    if headers.get("content-type", "").partition(";")[0].strip() == "application/problem+json":
        try:
            problem = json.loads(body)
            return CallFailed(
                str(problem["code"]),
                str(problem["detail"]),
                status=status,
                retryable=bool(problem["retryable"]),
                retry_after_s=after,
            )
        except (ValueError, KeyError, TypeError):
            pass
    text = " ".join(body[:_LONGEST_DETAIL].decode("utf-8", "replace").split())
    return CallFailed(
        f"status {status}",
        text or "the answer has no text",
        status=status,
        retryable=status in _REPEATED_FOR_PROXIES,
        retry_after_s=after,
    )


def retry_after_s(headers: Mapping[str, str]) -> float:
    """The seconds of Retry-After; 0 without them. A date counts as none: clocks differ."""
    value = headers.get("retry-after", "")
    return float(value) if re.fullmatch("[0-9]{1,9}", value) else 0.0


def pause_s(failures: int) -> float:
    """The pause after this many failures in a row: doubled up to LONGEST_PAUSE_S, then up to half less at random."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(max(failures, 1) - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  (spreads the calls; not a secret)
