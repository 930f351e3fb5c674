"""The seal on what replicas say to one another: who said it, to which request, unchanged. Pure.

HMAC-SHA256 (RFC 2104) under a key of the cluster's secret that is used for nothing else. A request's seal covers
method, path and body; an answer's covers the request's seal and the body, so that no answer fits another request.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from gateway.errors import Unauthenticated

_REQUEST, _ANSWER = b"request", b"answer"


def derived(secret: bytes, purpose: str) -> bytes:
    """The key of one purpose, from which neither the secret nor another purpose's key follows."""
    return hmac.digest(secret, b"kestrel-gateway " + purpose.encode(), "sha256")


class Seal:
    """Seals with the first of the secrets, accepts each of them. They may be replaced at any time."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self.replace(secrets)

    def replace(self, secrets: Sequence[bytes]) -> None:
        """From now on these are the secrets."""
        self._keys = [derived(secret, "orders between replicas") for secret in secrets]

    def request(self, method: str, path: str, body: bytes) -> str:
        """The seal of a request."""
        return _of(self._keys[0], _REQUEST, f"{method} {path}".encode(), body)

    def check_request(self, seal: str, method: str, path: str, body: bytes) -> None:
        """Raises Unauthenticated where the request is not a replica's, word for word."""
        self._check(seal, _REQUEST, f"{method} {path}".encode(), body)

    def answer(self, asked: str, body: bytes) -> str:
        """The seal of the answer to the request sealed with `asked`."""
        return _of(self._keys[0], _ANSWER, asked.encode(), body)

    def check_answer(self, seal: str, asked: str, body: bytes) -> None:
        """Raises Unauthenticated where this is no replica's answer to that request."""
        self._check(seal, _ANSWER, asked.encode(), body)

    def _check(self, seal: str, *parts: bytes) -> None:
        given = seal.encode("ascii", "replace")
        if not any(hmac.compare_digest(given, _of(key, *parts).encode()) for key in self._keys):
            raise Unauthenticated("this is not sealed with the cluster's secret")


def _of(key: bytes, *parts: bytes) -> str:
    return hmac.new(key, b"".join(b"%d:%b" % (len(part), part) for part in parts), "sha256").hexdigest()
