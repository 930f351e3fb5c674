"""The page at `/ui/` and the reference at `/docs` over HTTP: files that need no key, because they hold no data.

The page reads and changes queues through the contract, with the key that its user enters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from gateway.api.exchange import Answer, Call
from gateway.api.request.accept import quality, ranges
from gateway.errors import NotFound
from gateway.request import Headers
from gateway.ui.assets import INDEX, Asset, load
from gateway.ui.reference import reference

POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The page loads only its own files, runs no inline script and cannot be framed. Source: CSP Level 3, Trusted Types."""
_SECURITY: Final[Headers] = [
    (b"content-security-policy", POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
VARY_ACCEPT: Final[tuple[bytes, bytes]] = (b"vary", b"Accept")


class Page:
    """Handlers of `/ui/` and `/docs`. contract: openapi.json as it is served.

    on: whether the operator wants a page; without it, its paths do not exist.
    """

    def __init__(self, contract: bytes, *, on: bool) -> None:
        self.on = on
        self._assets: Mapping[str, Asset] = load()
        self._contract = contract
        self._reference: Asset | None = None

    async def index(self, call: Call) -> Answer:
        return self._serve(call, INDEX)

    async def file(self, call: Call) -> Answer:
        return self._serve(call, call.path("file"))

    async def docs(self, call: Call) -> Answer:
        """The contract for people; made when it is first read."""
        if self._reference is None:
            self._reference = await asyncio.to_thread(self._make_reference)
        return _answer(call, self._reference)

    def _make_reference(self) -> Asset:
        """Takes half a second, so it runs in a thread."""
        return Asset.of(reference(orjson.loads(self._contract)).encode(), ".html")

    def leads_to(self, call: Call) -> Answer | None:
        """The redirect to the page for a browser that asks for `/`; None for other clients."""
        if not self.on or not prefers_html(call.accept):
            return None
        return to_page(call)

    async def redirect(self, call: Call) -> Answer:
        """`/ui` without its slash."""
        return to_page(call)

    async def docs_redirect(self, call: Call) -> Answer:
        """`/docs` with a slash."""
        return _to(f"{call.root}/docs" if call.root else "../docs")

    def _serve(self, call: Call, name: str) -> Answer:
        asset = self._assets.get(name)
        if asset is None:
            raise NotFound(f"the page has no file {name[:80]!r}; it begins at {call.root}/ui/")
        return _answer(call, asset)


def to_page(call: Call) -> Answer:
    """Relative without --root-path, so that it works behind a proxy that removes a prefix."""
    target = f"{call.root}/ui/" if call.root else "ui/"
    return _to(target)


def _to(target: str) -> Answer:
    return Answer(302, headers=[(b"location", target.encode()), (b"cache-control", b"no-store"), VARY_ACCEPT])


def prefers_html(accept: str) -> bool:
    """Whether the client prefers HTML to JSON, as browsers do."""
    found = ranges(accept)
    return quality(found, "text/html") > quality(found, "application/json")


def _answer(call: Call, asset: Asset) -> Answer:
    headers = [(b"etag", asset.etag), (b"cache-control", b"no-cache"), *_SECURITY]
    if _has(call.headers(b"if-none-match"), asset.etag.decode()):
        return Answer(304, headers=headers)
    return Answer(200, asset.body, [(b"content-type", asset.content_type), *headers])


def _has(none_match: Sequence[str], etag: str) -> bool:
    """Whether the client has the file. A proxy that compresses it makes the tag weak: W/"...".

    Source: RFC 9110, section 13.1.2.
    """
    return any(each.strip().removeprefix("W/") in (etag, "*") for value in none_match for each in value.split(","))
