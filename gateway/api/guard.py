"""Who may ask, while requests are not authenticated: loopback Hosts, no foreign web pages. Pure.

With keys neither is looked at: no browser adds a Bearer key by itself, so a page can do nothing that its author could
not do from his own machine (docs/security.md).

A web page may send requests to 127.0.0.1 from the reader's own browser, and may do so under a name that it points
there itself (DNS rebinding). The Host header gives the second away, Origin and Sec-Fetch-Site the first.
Source: Fetch Metadata Request Headers (W3C); RFC 6454 (Origin); RFC 9110, section 7.2 (Host).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from gateway.errors import BadRequest, ForbiddenHost, ForbiddenOrigin, InvalidName
from gateway.leases.replicas import PATH
from gateway.settings import Settings, is_loopback

_OPEN_PATHS = frozenset({"/livez", "/readyz", PATH})
_FOREIGN = frozenset({"cross-site", "same-site"})


class Guard:
    """Lets a request through or raises."""

    def __init__(self, settings: Settings) -> None:
        self._keyed = settings.keys is not None
        hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._origins = frozenset(settings.allowed_origins)

        @lru_cache(maxsize=256)
        def allowed(host: str) -> bool:
            name = host.lower()
            bare = name.rsplit(":", 1)[0] if not name.endswith("]") else name
            return "*" in hosts or name in hosts or bare in hosts or is_loopback(bare)

        self._allowed = allowed

    def check(self, path: str, raw_path: bytes, scheme: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Returns when the request may go on.

        Raises:
            ForbiddenHost, ForbiddenOrigin: it comes from where it must not.
            BadRequest: no Host, or several. InvalidName: an encoded slash or control character in the path.
        """
        if b"%" in raw_path and (b"%2f" in raw_path.lower() or not path.isprintable()):
            raise InvalidName("the path holds an encoded slash or control character, which no name may hold")
        if self._keyed or path in _OPEN_PATHS:
            return
        host = origin = site = None
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    raise BadRequest("more than one Host header")
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"sec-fetch-site":
                site = value.decode("latin-1")
        if host is None:
            raise BadRequest("the Host header is missing")
        if not self._allowed(host):
            raise ForbiddenHost(f"Host {host[:100]!r} is neither loopback nor allowed (--allowed-hosts)")
        if origin is not None and origin in self._origins:
            return
        if origin is not None and origin != f"{scheme}://{host}":
            raise ForbiddenOrigin(f"Origin {origin[:100]!r} is not allowed (--allowed-origins)")
        if site in _FOREIGN:
            raise ForbiddenOrigin(f"a {site} request from a web page is not allowed (--allowed-origins)")
