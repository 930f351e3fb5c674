"""Signatures of Standard Webhooks. Pure functions.

Source: github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md, "Symmetric signatures".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final

from gateway.common.counted import counted

_PREFIX: Final = "whsec_"
_PLAIN_ID: Final = re.compile("[A-Za-z0-9_-]{1,128}")
SHORTEST, LONGEST = 24, 64
"""Bytes of a secret. Source: as above."""


class SecretError(ValueError):
    """A secret is not one of Standard Webhooks. The message does not contain it."""


def secret(text: str) -> bytes:
    """The bytes of a secret as it is written: base64, with `whsec_` before it or not. Raises SecretError."""
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error as exc:
        raise SecretError(f"a secret must be {_PREFIX} and base64") from exc
    if not SHORTEST <= len(key) <= LONGEST:
        raise SecretError(
            f"a secret of {counted(len(key), 'byte')} is not allowed; it must have {SHORTEST} to {LONGEST}"
        )
    return key


def webhook_id(job_id: str, body: bytes) -> str:
    """The same for every attempt of a job. A point would end it where the signed text is taken apart, so an id that has
    one, or that a header cannot hold, is replaced by its digest; an item without an id has that of its bytes.
    """
    if _PLAIN_ID.fullmatch(job_id):
        return job_id
    return "job_" + hashlib.sha256(job_id.encode() or body).hexdigest()[:32]


def headers(identity: str, unix_s: int, body: bytes, secrets: Sequence[bytes]) -> dict[str, str]:
    """The three headers, with a signature by each secret."""
    signed = f"{identity}.{unix_s}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in secrets]
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(unix_s),
        "webhook-signature": " ".join(f"v1,{each}" for each in signatures),
    }
