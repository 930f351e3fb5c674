"""Whether a request is admitted: who calls, whether the caller's scopes cover the operation, and its request rate.

One assignment replaces the table of keys, so a request sees either the old keys or the new ones, never a mixture.
Callers that were found by their secret are kept with it until then. A secret is found in a dict, by its hash with a
random key: the time of a lookup tells nothing about other secrets, as in gateway.config.keys.
Source: RFC 6750 (Bearer), sections 2.1 and 3.1.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.api.access.caller import ANYONE, STRANGER, Caller
from gateway.common.counted import counted
from gateway.config.keys import EVERY_TENANT, Key, Keys, Scope
from gateway.errors import ForbiddenScope, RateLimited, Unauthenticated

MOST_PRESENTED: Final = 1024
"""Values of Authorization that are kept with their callers. Then all are forgotten: a secret has several spellings."""
_BEARER = re.compile(rb"bearer +([A-Za-z0-9._~+/-]{1,512}=*) *", re.IGNORECASE)


class Bucket:
    """A token bucket: `rate` requests a second, `burst` of them at once."""

    __slots__ = ("_at_s", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: int, now_s: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """0 if a request may proceed, otherwise the seconds until one may."""
        self._tokens = min(self.burst, self._tokens + (now_s - self._at_s) * self.rate)
        self._at_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate

    def charge(self, tokens: int) -> None:
        """Charges an admitted request `tokens` more, because it is as much work as that many more requests."""
        self._tokens -= tokens


@dataclass(frozen=True, slots=True)
class _KeyState:
    """A key, its caller and its bucket."""

    key: Key
    caller: Caller
    bucket: Bucket | None


class Admission:
    """Admits callers: everyone without keys, otherwise the holders of keys. clock: monotonic seconds.

    presented: callers that were found, by the value of Authorization.
    """

    def __init__(self, keys: Keys | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._keys = keys
        self._key_states: Mapping[bytes, _KeyState] = {}
        self._buckets: Mapping[str, Bucket] = {}
        self.presented: dict[bytes, Caller] = {}
        if keys is not None:
            self.replace(keys)

    def replace(self, keys: Keys) -> None:
        """Uses these keys from now on. A key whose limit is unchanged keeps its bucket."""
        before, now_s = self._key_states, self._clock()
        states = {}
        for digest, key in keys.by_digest.items():
            known = before.get(digest)
            bucket = known.bucket if known is not None else None
            if bucket is None or (bucket.rate, bucket.burst) != (key.rate, key.burst):
                bucket = Bucket(key.rate, key.burst, now_s) if key.rate else None
            tenant = "" if key.tenant == EVERY_TENANT else key.tenant
            states[digest] = _KeyState(key, Caller(key.name, tenant, key.scopes, key.queues), bucket)
        self._keys, self._key_states, self.presented = keys, states, {}
        self._buckets = {each.key.name: each.bucket for each in states.values() if each.bucket is not None}

    def identify(self, headers: Iterable[tuple[bytes, bytes]], scopes: Collection[Scope]) -> Caller:
        """The caller of an operation that needs one of `scopes`. Where it needs none, the key is not looked at.

        Raises Unauthenticated.
        """
        keys = self._keys
        if keys is None:
            return ANYONE
        if not scopes:
            return STRANGER
        values = [value for name, value in headers if name == b"authorization"]
        caller = self.presented.get(values[0]) if len(values) == 1 else None
        return caller if caller is not None else self._look_up(keys, values)

    def _look_up(self, keys: Keys, values: Sequence[bytes]) -> Caller:
        """The caller that presents these values of Authorization; only those of known callers are kept.

        Raises Unauthenticated.
        """
        key = keys.find(_secret(values))
        if key is None:
            raise Unauthenticated("the key is unknown; check its secret", invalid=True)
        if len(self.presented) >= MOST_PRESENTED:
            self.presented.clear()
        caller = self.presented[values[0]] = self._key_states[key.digest].caller
        return caller

    def admit(self, caller: Caller, scopes: Sequence[Scope]) -> None:
        """Counts a request of the caller, which needs one of `scopes`, the first of which permits the least.

        Raises RateLimited, ForbiddenScope.
        """
        bucket = self._buckets.get(caller.name) if caller.name else None
        if bucket is not None and (wait_s := bucket.take(self._clock())):
            raise RateLimited(
                f"this key allows {counted(bucket.rate, 'request', form='g')} a second; send the next one "
                "after Retry-After",
                max(1, math.ceil(wait_s)),
            )
        check_scopes(caller, scopes)

    def charge(self, caller: Caller, requests: int) -> None:
        """Counts a request of the caller's key as `requests` more."""
        bucket = self._buckets.get(caller.name) if caller.name else None
        if bucket is not None:
            bucket.charge(requests)


def check_scopes(caller: Caller, scopes: Sequence[Scope]) -> None:
    """Raises ForbiddenScope if the caller has none of `scopes`, the first of which permits the least."""
    if scopes and caller.scopes.isdisjoint(scopes):
        least = scopes[0].value
        others = "".join(f" or {each.value!r}" for each in scopes[1:])
        raise ForbiddenScope(
            f"this operation needs the scope {least!r}{others}, which the key lacks; use a key that has it", least
        )


def _secret(values: Sequence[bytes]) -> bytes:
    """The secret in the values of Authorization.

    Raises Unauthenticated if there is no value, more than one, or a malformed one.
    """
    if not values:
        raise Unauthenticated("a key is required; send the header Authorization: Bearer SECRET")
    bearer = _BEARER.fullmatch(values[0])
    if len(values) > 1 or bearer is None:
        raise Unauthenticated(
            "Authorization is malformed or given more than once; send one header Authorization: Bearer SECRET",
            invalid=True,
        )
    return bearer[1]
