"""Lease ids: unguessable, signed, and containing the worker that holds the lease. Pure.

    version 1 | key id 1 | boot id 8 | nonce 16 | instance n | tag 16      56 to 192 characters of URL-safe base64

The instance is the URL at which other replicas reach the worker's gateway; it is empty without replicas. Everyone who
has the id can read the URL. The tag is keyed BLAKE2b (RFC 7693, 128 bits; a quarter of the cost of HMAC here) over
everything before it and the tenant's name. So an id does not reveal its tenant, and is useless to another tenant.

One to three zero bytes end the instance. They pad it, so that every character of the id has a meaning, and they
separate it from the tenant's name, which contains none: no byte of one can be taken for a byte of the other. The old
form had no zero byte if the length of the URL was a multiple of three. It is accepted until `refuse_old_form`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import NamedTuple

from gateway.errors import LeaseNotFound
from gateway.nonce import NONCE_BYTES, nonce
from gateway.settings import LONGEST_INSTANCE, is_instance

VERSION = 1
BOOT_BYTES = 8
_TAG_BYTES = 16
_INSTANCE_AT = 2 + BOOT_BYTES + NONCE_BYTES
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
# Length in steps of four, and no other character: each id has exactly one spelling.
_FORM = re.compile(r"[A-Za-z0-9_-]{56}(?:[A-Za-z0-9_-]{4}){0,34}")


class Owner(NamedTuple):
    """The holder of a lease. instance: a URL, or empty without replicas. boot_id: of the worker."""

    instance: str
    boot_id: str


class LeaseIds:
    """Makes and reads the lease ids of one deployment.

    keys: of at least 32 bytes, shared by every worker of every replica. The first signs, all are accepted. They may be
    replaced at any time.
    replaced: whether they were, so that ids made here may be unknown now.
    boot_id: 16 hex digits, new for every start of a worker. instance: this gateway's URL, at most LONGEST_INSTANCE
    bytes of ASCII.
    """

    def __init__(self, keys: Sequence[bytes], boot_id: str, instance: str = "") -> None:
        if len(instance) > LONGEST_INSTANCE:
            raise ValueError("the instance's URL is too long for a lease id")
        self.own = Owner(instance, boot_id)
        self._own_tail = instance.encode("ascii") + bytes(3 - len(instance) % 3) if instance else b""
        self._old_form = True
        self.replaced = False
        self._use(keys)

    def replace(self, keys: Sequence[bytes]) -> None:
        """Uses these keys from now on; ids made with other keys are unknown."""
        self._use(keys)
        self.replaced = True

    def _use(self, keys: Sequence[bytes]) -> None:
        if not keys or min(map(len, keys)) < 32:
            raise ValueError("a lease key is shorter than 32 bytes")
        self._keys = [(bytes([VERSION, hashlib.sha256(key).digest()[0]]), _keyed(key)) for key in keys]
        head, self._signs_with = self._keys[0]
        self._own_head = head + bytes.fromhex(self.own.boot_id)

    def refuse_old_form(self) -> None:
        """From now on ids without a zero byte after the instance are unknown."""
        self._old_form = False

    def new(self, tenant: str = "") -> str:
        """A new id that names this worker."""
        unsigned = self._own_head + nonce() + self._own_tail
        raw = unsigned + _tag(self._signs_with, unsigned, tenant)
        return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE).decode()

    def owner(self, lease_id: str, tenant: str = "") -> Owner:
        """The worker that made the id.

        Raises:
            LeaseNotFound: the id was not made with one of these keys for this tenant.
        """
        if not _FORM.fullmatch(lease_id):
            raise LeaseNotFound("no such lease")
        raw = base64.urlsafe_b64decode(lease_id)
        unsigned, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        for head, keyed in self._keys:
            if unsigned[:2] == head and hmac.compare_digest(tag, _tag(keyed, unsigned, tenant)):
                return Owner(self._instance(unsigned[_INSTANCE_AT:]), unsigned[2 : 2 + BOOT_BYTES].hex())
        raise LeaseNotFound("no such lease")

    def _instance(self, field: bytes) -> str:
        """The URL in that field of an id, empty if there is none. Raises LeaseNotFound if it is not a URL."""
        url = field.rstrip(b"\0").decode("ascii", "replace")
        if field and not (is_instance(url) and (field.endswith(b"\0") or self._old_form)):
            raise LeaseNotFound("no such lease")
        return url


def _keyed(key: bytes) -> hashlib.blake2b:
    """A keyed hash whose key is derived from `key`: of the hash's length, and used for nothing else."""
    derived = hashlib.blake2b(key, digest_size=32, person=b"lease id").digest()
    return hashlib.blake2b(key=derived, digest_size=_TAG_BYTES)


def _tag(keyed: hashlib.blake2b, unsigned: bytes, tenant: str) -> bytes:
    tag = keyed.copy()
    tag.update(unsigned + tenant.encode())
    return tag.digest()
