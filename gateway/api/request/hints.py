"""What a caller probably meant: the path, method or parameter of the contract nearest to the one in the request. Pure.

A hint uses only words of the contract: it repeats nothing from the request, and names or looks up no queue.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

MAX_PATH: Final = 512
"""Characters; a longer word is no typing error."""
_MAX_WORD: Final = 32
_MAX_PARTS: Final = 6
_MAX_HINTS: Final = 2
_LIKENESS: Final = 0.75
"""difflib's measure: one letter in four may be wrong."""

WORDS: Final[Mapping[str, str]] = {
    "queues": "queue q topic topics channel channels",
    "jobs": "job message messages msg msgs item items task tasks enqueue push publish put send add post",
    "events": "event cloudevent cloudevents",
    "next": "job message messages msg msgs item items task tasks event events dequeue pop take get receive poll "
    "consume reserve fetch pull lease",
    "leases": "lease reservation reservations receipt receipts job jobs message messages",
    "ack": "acknowledge done complete completed confirm finish success commit delete",
    "nack": "release return requeue retry unack abort fail failed",
    "reject": "bury kill discard deadletter dead-letter",
    "extend": "touch renew heartbeat keepalive prolong",
    "settle": "batch acks nacks rejects",
    "peek": "head first top",
    "flush": "purge clear empty drain",
    "dead-letters": "deadletters dead_letters dead-letter deadletter dead dlq",
    "redrive": "replay requeue retry",
    "backends": "backend server servers node nodes kestrel",
    "livez": "health healthz healthcheck health-check live liveness alive ping status up",
    "readyz": "health healthz healthcheck health-check ready readiness status",
    "metrics": "metric prometheus stats statistics",
    "openapi.json": "openapi swagger swagger.json api-docs docs spec schema",
}
"""Words of other queues and services for that segment of a path."""

_GENERATED: Final = frozenset({"/queues/{queue}/jobs/batch", "/queues/{queue}/leases"})
"""Paths for generated clients, which do not mistype them. They are never suggested to a person."""

_PREFIXES: Final = frozenset({"api", "v1", "v2", "rest", "kestrel"})

METHODS: Final[Mapping[tuple[str, str], tuple[str, str]]] = {
    ("GET", "/queues/{queue}/jobs"): ("GET", "/queues/{queue}/next"),
    ("GET", "/queues/{queue}/events"): ("GET", "/queues/{queue}/next"),
    ("DELETE", "/queues/{queue}/jobs"): ("POST", "/queues/{queue}/flush"),
    ("POST", "/queues/{queue}/next"): ("POST", "/queues/{queue}/leases"),
    ("PUT", "/queues/{queue}/next"): ("POST", "/queues/{queue}/leases"),
    ("POST", "/queues/{queue}"): ("POST", "/queues/{queue}/jobs"),
    ("PUT", "/queues/{queue}"): ("POST", "/queues/{queue}/jobs"),
    ("POST", "/queues"): ("POST", "/queues/{queue}/jobs"),
    ("PUT", "/queues"): ("POST", "/queues/{queue}/jobs"),
    ("DELETE", "/leases/{lease}"): ("POST", "/leases/{lease}/ack"),
    ("POST", "/leases/{lease}"): ("POST", "/leases/{lease}/ack"),
    ("PUT", "/leases/{lease}"): ("POST", "/leases/{lease}/extend"),
    ("PATCH", "/leases/{lease}"): ("POST", "/leases/{lease}/extend"),
}
"""The probable target of a method that a path does not accept."""

PARAMETERS: Final[dict[str, str]] = {
    "timeout": "wait wait_s wait_seconds wait_time waittimeseconds block poll t",
    "lease": "lease_s lease_time lease_seconds visibility visibility_timeout visibilitytimeout ttr lock",
    "lease_seconds": "lease_s lease_time lease visibility visibility_timeout visibilitytimeout ttr lock",
    "ttl": "expire expires expiry expiration",
    "receipt": "prefer reply return",
    "format": "raw accept",
    "limit": "max count size per_page page_size",
    "cursor": "page offset after",
    "filter": "where query q",
    "sort": "order order_by",
}
"""Names of other services for these query parameters."""

MEMBERS: Final[dict[str, str]] = {
    "lease": "lease_id id receipt receipt_handle",
    "ack": "lease lease_id",
    "delay": "delay_s delay_seconds delayseconds",
    "reason": "error message cause",
    "max": "limit count maximum size",
    "data": "body payload message",
    "content_type": "type contenttype datacontenttype media_type",
}
"""Names of other services for these members of JSON bodies, in addition to the names of query parameters."""


@dataclass(frozen=True, slots=True)
class _Path:
    """One path of the contract. words: the fixed segments; None where a name belongs."""

    template: str
    words: tuple[str | None, ...]
    methods: frozenset[str]

    def likeness(self, candidates: tuple[frozenset[str], ...]) -> int:
        """How many fixed segments match; 0 if one differs."""
        if len(candidates) != len(self.words):
            return 0
        count = 0
        for word, candidate in zip(self.words, candidates, strict=True):
            if word is not None:
                if word not in candidate:
                    return 0
                count += 1
        return count


class Paths:
    """The paths of the contract. table: the methods of each template."""

    def __init__(self, table: Mapping[str, Iterable[str]]) -> None:
        self._paths = [
            _Path(template, _words(template), frozenset(methods))
            for template, methods in table.items()
            if template not in _GENERATED
        ]
        literals = sorted({word for path in self._paths for word in path.words if word is not None})

        @lru_cache(maxsize=256)
        def candidates(word: str) -> frozenset[str]:
            return frozenset(_meant(word, literals, WORDS, _MAX_HINTS))

        self._candidates = candidates

    def near(self, method: str, path: str, root: str = "") -> str:
        """The hint for an unknown path; empty if no path is near. root: the prefix of published paths."""
        if len(path) > MAX_PATH:
            return ""
        if root and path.startswith(root + "/"):
            path = path.removeprefix(root)  # the root path was given twice
        parts = [part.lower() for part in path.split("/") if part]
        for variant, least in _variants(parts):
            found = self._like(method, variant, least)
            if found:
                hint = _asked(found, root)
                return (
                    hint
                    if path.count("/") == len(parts)
                    else f"{hint} Paths have no empty segments and no trailing slash."
                )
        return ""

    def _like(self, method: str, parts: list[str], least: int) -> list[str]:
        """The paths that have the most segments in common with these parts, `least` or more. If some of them accept the
        method, only those.
        """
        candidates = tuple(self._candidates(part) if len(part) <= _MAX_WORD else frozenset[str]() for part in parts)
        likeness = {path: path.likeness(candidates) for path in self._paths}
        best = max(likeness.values(), default=0)
        alike = [path for path, count in likeness.items() if count == best and best >= least]
        exact = [path for path in alike if all(word is None or word in parts for word in path.words)]
        alike = exact or alike
        fitting = [path for path in alike if method in path.methods]
        return [_shown(path, method) for path in (fitting or alike)[:_MAX_HINTS]]


def elsewhere(method: str, template: str, root: str = "") -> str:
    """The hint for a method that the path does not accept; empty if there is none. root: as in `near`."""
    meant = METHODS.get((method, template))
    return _asked([" ".join(meant)], root) if meant is not None else ""


def _asked(calls: list[str], root: str) -> str:
    """The question. calls: such as `GET /queues`. root: the prefix of published paths."""
    return f"did you mean {' or '.join(calls)}?".replace(" /", f" {root}/")


def parameter(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown query parameter; empty if none is near."""
    word = name.lower().replace("-", "_")
    found = _meant(word, list(known), PARAMETERS, 1) if len(word) <= _MAX_WORD else []
    return f"did you mean {found[0]}?" if found else ""


def member(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown member of a JSON body; empty if none is near."""
    word = name.lower().replace("-", "_")
    found = _meant(word, list(known), PARAMETERS | MEMBERS, 1) if len(word) <= _MAX_WORD else []
    return f"did you mean {found[0]}?" if found else ""


def _meant(word: str, known: list[str], others: Mapping[str, str], limit: int) -> list[str]:
    """The known words that it may mean: the word itself, what others call so, or words with a similar spelling."""
    named = [each for each in known if each == word or word in others.get(each, "").split()]
    return named or difflib.get_close_matches(word, known, limit, _LIKENESS)


def _variants(parts: list[str]) -> Iterable[tuple[list[str], int]]:
    """The parts as given; without a prefix of other services; with a missing segment; in the order of other services
    (`/ack/ID`); without an extra last part; and with a missing last part. With each variant, how many of its segments
    must be fixed segments of the contract.
    """
    if not 0 < len(parts) <= _MAX_PARTS:
        return
    yield parts, 1
    if parts[0] in _PREFIXES:
        yield parts[1:], 1
    for first in ("queues", "leases"):
        yield [first, *parts], 2
        yield [first, "?", *parts], 2
        yield [first, "?", parts[0]], 2
    yield parts[:-1], 2
    yield [*parts, "?"], 1


def _words(template: str) -> tuple[str | None, ...]:
    return tuple(None if part.startswith("{") else part for part in template.split("/") if part)


def _shown(path: _Path, method: str) -> str:
    if method in path.methods:
        return f"{method} {path.template}"
    if (method, path.template) in METHODS:
        return " ".join(METHODS[method, path.template])
    shown = sorted(path.methods - {"HEAD", "OPTIONS"}) or sorted(path.methods)
    return f"{' or '.join(shown)} {path.template}"
