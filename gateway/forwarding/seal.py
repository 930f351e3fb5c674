"""The seal on messages between replicas: it proves the sender, the request it belongs to, and its content. Pure.

HMAC-SHA256 (RFC 2104) with a key that is derived from the cluster's secret for this purpose only. A request's seal
covers method, path and body. An answer's seal covers the request's seal and the body, so an answer fits only one
request.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from gateway.errors import Unauthenticated

_REQUEST, _ANSWER = b"request", b"answer"


def derived(secret: bytes, purpose: str) -> bytes:
    """The key for one purpose. It reveals neither the secret nor the key for another purpose."""
    return hmac.digest(secret, b"kestrel-gateway " + purpose.encode(), "sha256")


def lease_keys(secrets: Sequence[bytes]) -> list[bytes]:
    """The keys that sign the lease ids of all replicas."""
    return [derived(secret, "lease ids") for secret in secrets]


class Seal:
    """Seals with the first of the secrets, accepts each of them. They may be replaced at any time."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self.replace(secrets)

    def replace(self, secrets: Sequence[bytes]) -> None:
        """Uses these secrets from now on."""
        self._keys = [derived(secret, "orders between replicas") for secret in secrets]

    def request(self, method: str, path: str, body: bytes) -> str:
        """The seal of a request."""
        return _of(self._keys[0], _REQUEST, f"{method} {path}".encode(), body)

    def check_request(self, seal: str, method: str, path: str, body: bytes) -> None:
        """Raises Unauthenticated unless a replica sealed exactly this request."""
        self._check(seal, _REQUEST, f"{method} {path}".encode(), body)

    def answer(self, asked: str, body: bytes) -> str:
        """The seal of the answer to the request sealed with `asked`."""
        return _of(self._keys[0], _ANSWER, asked.encode(), body)

    def check_answer(self, seal: str, asked: str, body: bytes) -> None:
        """Raises Unauthenticated unless a replica sealed this answer to that request."""
        self._check(seal, _ANSWER, asked.encode(), body)

    def _check(self, seal: str, *parts: bytes) -> None:
        given = seal.encode("ascii", "replace")
        if not any(hmac.compare_digest(given, _of(key, *parts).encode()) for key in self._keys):
            raise Unauthenticated(
                "the message is not signed with the cluster's secret; give all replicas the same --cluster-secret"
            )


def _of(key: bytes, *parts: bytes) -> str:
    return hmac.new(key, b"".join(b"%d:%b" % (len(part), part) for part in parts), "sha256").hexdigest()
