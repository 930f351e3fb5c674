"""Lease ids: unguessable, signed, and naming the worker that holds the lease. Pure.

    version 1 | key id 1 | boot id 8 | nonce 16 | tag 16      42 bytes, 56 characters of URL-safe base64

The tag is HMAC-SHA256 (RFC 2104, truncated to 128 bits) over everything before it and the tenant's name, so an id
tells nobody whose it is and is worth nothing to another tenant.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os

from gateway.errors import LeaseNotFound

VERSION = 1
BOOT_BYTES = 8
_NONCE_BYTES = 16
_TAG_BYTES = 16
_LENGTH = 2 + BOOT_BYTES + _NONCE_BYTES + _TAG_BYTES


class LeaseIds:
    """Makes and reads the lease ids of one deployment.

    secret: at least 32 bytes, shared by every worker. boot_id: 16 hex digits, new for every start of a worker.
    """

    def __init__(self, secret: bytes, boot_id: str) -> None:
        if len(secret) < 32:
            raise ValueError("the lease key is shorter than 32 bytes")
        self._secret = secret
        self._head = bytes([VERSION, hashlib.sha256(secret).digest()[0]])
        self._own = self._head + bytes.fromhex(boot_id)

    def new(self, tenant: str = "") -> str:
        """An id that names this worker."""
        unsigned = self._own + os.urandom(_NONCE_BYTES)
        return base64.urlsafe_b64encode(unsigned + self._tag(unsigned, tenant)).decode()

    def owner(self, lease_id: str, tenant: str = "") -> str:
        """The boot id of the worker that made the id.

        Raises:
            LeaseNotFound: the id was not made with this key for this tenant.
        """
        try:
            raw = base64.b64decode(lease_id.encode(), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raw = b""
        unsigned, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        if (
            len(raw) != _LENGTH
            or unsigned[:2] != self._head
            or not hmac.compare_digest(tag, self._tag(unsigned, tenant))
        ):
            raise LeaseNotFound("no such lease")
        return unsigned[2 : 2 + BOOT_BYTES].hex()

    def _tag(self, unsigned: bytes, tenant: str) -> bytes:
        return hmac.digest(self._secret, unsigned + tenant.encode(), "sha256")[:_TAG_BYTES]
