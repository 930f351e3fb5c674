"""Whether a request is accepted without keys. Pure.

Its Host must be loopback or listed, and a web page's origin must be its own or listed. Health checks are exempt.

With keys neither is checked: no browser adds a Bearer key by itself, so a page can do nothing that its author could not
do from another machine (docs/security.md).

A web page can send requests to 127.0.0.1 from its visitor's browser. Origin and Sec-Fetch-Site reveal that. It can also
use a DNS name of its own that resolves to 127.0.0.1 (DNS rebinding), which the Host header reveals. Over plain HTTP
beyond loopback, browsers send neither Origin nor Sec-Fetch-Site with the GET of an image, so a browser's GET of a job
is refused there. Source: Fetch Metadata Request Headers (W3C); RFC 6454 (Origin); RFC 9110, section 7.2 (Host).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from gateway.common.net import is_loopback
from gateway.errors import BadRequest, ForbiddenHost, ForbiddenOrigin, InvalidName
from gateway.forwarding.replicas import PATH
from gateway.request import HttpRequest
from gateway.settings import Settings

_OPEN_PATHS = frozenset({"/livez", "/readyz", PATH})
_PAGES = frozenset({"/", "/ui", "/ui/", "/docs", "/docs/"})
_OWN_SITES = frozenset({"same-origin", "none"})
"""Accepted origins of a request: the page's own site, or a URL that the reader typed. Unknown values are refused."""
_HOST = re.compile(r"([^\s:/?#@\[\]]+|\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\])(?::(?:0*([0-9]*))?)?")
_LARGEST_PORT = 65535
_BROWSER = "Mozilla/"
"""The User-Agent of every browser begins with this; a page cannot remove it."""
_LOOKED_AT = frozenset({b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"user-agent"})


class Guard:
    """Accepts a request or raises."""

    def __init__(self, settings: Settings) -> None:
        self._keyed = settings.keys is not None
        hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._origins = frozenset(settings.allowed_origins)

        @lru_cache(maxsize=256)
        def allowed(host: str) -> bool:
            name = host.lower()
            if not _has_valid_port(name):
                return False
            bare = _bare(name)
            return "*" in hosts or name in hosts or (bare != "" and bare in hosts) or is_loopback(bare)

        self._allowed = allowed

    def check(self, request: HttpRequest) -> None:
        """Returns if the request is accepted.

        Raises:
            ForbiddenHost, ForbiddenOrigin: the request comes from a host or page that is not allowed.
            BadRequest: no Host, several, or an invalid port.
            InvalidName: an encoded slash or control character in the path.
        """
        path, raw_path = request.path, request.raw_path
        if b"%" in raw_path and (b"%2f" in raw_path.lower() or not path.isprintable()):
            raise InvalidName("the path has an encoded slash or control character, which names cannot contain")
        if self._keyed or path in _OPEN_PATHS or (path == "/" and request.method == "OPTIONS"):
            return
        found: dict[bytes, str] = {}
        for name, value in request.headers:
            if name in _LOOKED_AT:
                text = value.decode("latin-1")
                found[name] = f"{found[name]}, {text}" if name in found else text
                if name == b"host" and found[name] != text:
                    raise BadRequest("Host is given more than once; send it once")
        host = found.get(b"host")
        if host is None:
            raise BadRequest("the Host header is missing; send it")
        if not self._allowed(host):
            if not _has_valid_port(host):
                raise BadRequest(f"Host {host[:100]!r}: the port is above the maximum of {_LARGEST_PORT}")
            raise ForbiddenHost(f"Host {host[:100]!r} is not a loopback name and not in --allowed-hosts; add it there")
        self._check_page(request, host, found)

    def _check_page(self, request: HttpRequest, host: str, found: Mapping[bytes, str]) -> None:
        """Raises ForbiddenOrigin if a foreign page may have sent the request.

        found: the values of the headers in _LOOKED_AT; repeated headers are joined.
        """
        origin, site = found.get(b"origin"), found.get(b"sec-fetch-site")
        if origin is not None and origin in self._origins:
            return
        if origin is not None and origin != f"{request.scheme}://{host}":
            raise ForbiddenOrigin(f"Origin {origin[:100]!r} is not allowed; add it to --allowed-origins")
        if site is not None and site not in _OWN_SITES and not _opens_page(request, found):
            raise ForbiddenOrigin(
                f"a {site[:100]} request from a web page is not allowed; add its origin to --allowed-origins"
            )
        if origin is None and site is None and request.method == "GET" and request.path.endswith(("/next", "/stream")):
            agent = found.get(b"user-agent", "")
            if agent.startswith(_BROWSER) and not is_loopback(_bare(host.lower())):
                raise ForbiddenOrigin(
                    "over plain HTTP a browser does not say whether a web page sent this request, so a GET that takes "
                    f"a job is refused if its User-Agent begins with {_BROWSER!r}; send another User-Agent"
                )


def _opens_page(request: HttpRequest, found: Mapping[bytes, str]) -> bool:
    """Whether a link was followed to a page of the gateway: it holds no data, and no other page can frame it."""
    return request.path in _PAGES and request.method == "GET" and found.get(b"sec-fetch-mode") == "navigate"


def _bare(host: str) -> str:
    """The host name without its port; empty if the value is not a valid host."""
    found = _HOST.fullmatch(host)
    return found[1] if found is not None else ""


def _has_valid_port(host: str) -> bool:
    """False only if the port of a valid host is too large. A port may be empty (RFC 3986, section 3.2.3)."""
    found = _HOST.fullmatch(host)
    port = (found[2] or "0") if found is not None else "0"
    return len(port) <= len(str(_LARGEST_PORT)) and int(port) <= _LARGEST_PORT
