"""The keys of a deployment: one TOML file, read and checked as a whole. Knows no HTTP.

    [[keys]]
    name = "shop"                       # shown in logs; the secret never is
    sha256 = "9f86d081884c7d65..."      # 64 hex digits: the digest of the secret
    tenant = "acme"                     # either all keys have one, or none has; a key with only `operator` has none
    scopes = ["produce", "consume"]     # of produce, consume, admin, observe, operator
    queues = ["emails", "img-*"]        # optional; `*` matches any characters, `?` one; children: "emails+*"
    rate = 100                          # optional; requests a second per worker
    burst = 200                         # optional; requests at once

The key of a secret is found in a dict by the secret's SHA-256. A caller that guesses secrets cannot choose the digest,
so the time of a lookup tells nothing that helps with the next guess. The digest that was found is compared again in
constant time. Secrets from `keys new` have 256 random bits, so a slow hash would add cost but no safety.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from gateway.config import toml_file
from gateway.config.toml_file import Mistake, MistakesError, TomlFile
from gateway.errors import InvalidName
from gateway.names import glob
from gateway.names.namespace import check_name

MAX_PATTERNS: Final = 100
MAX_RATE: Final = 1_000_000
EVERY_TENANT: Final = "*"
"""In the place of a tenant: a key with only the scope observe may read the figures of all of them."""
SECRET_PREFIX: Final = "kg_"  # noqa: S105 (a prefix of secrets, not a secret)
_FIELDS: Final = ("name", "sha256", "tenant", "scopes", "queues", "rate", "burst")
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")


class Scope(Enum):
    """produce: enqueue. consume: take and settle. admin: manage the tenant's queues. observe: read figures, and nothing
    else. operator: the whole deployment."""

    PRODUCE = "produce"
    CONSUME = "consume"
    ADMIN = "admin"
    OBSERVE = "observe"
    OPERATOR = "operator"

    __hash__ = object.__hash__  # Enum's is a call of Python code, for each look into a set of scopes


@dataclass(frozen=True, slots=True)
class Key:
    """What the holder of one secret may do. tenant: empty, or EVERY_TENANT. queues: patterns; empty allows every queue.
    rate: 0 means no limit."""

    name: str
    digest: bytes
    tenant: str
    scopes: frozenset[Scope]
    queues: tuple[str, ...] = ()
    rate: float = 0.0
    burst: int = 0


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys of a deployment, by the SHA-256 of their secrets.

    tenanted: whether keys have tenants; None if no key decides it (no keys, or operators only).
    """

    by_digest: Mapping[bytes, Key]
    tenanted: bool | None

    def __len__(self) -> int:
        return len(self.by_digest)

    def find(self, secret: bytes) -> Key | None:
        """The key of the secret; the time it takes reveals nothing about other keys."""
        digest = hashlib.sha256(secret).digest()
        key = self.by_digest.get(digest)
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None


def load(path: Path) -> Keys:
    """The keys in the file. Raises MistakesError with every mistake in it."""
    return _Reader(toml_file.read(path)).read()


def new(
    name: str,
    tenant: str,
    scopes: Sequence[str],
    queues: Sequence[str] = (),
    *,
    rate: float | None = None,
    burst: int | None = None,
) -> tuple[str, str]:
    """A new secret, and its table in the format of the file of keys. Raises MistakesError."""
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest()}
    if tenant:
        entry["tenant"] = tenant
    entry["scopes"] = list(dict.fromkeys(scopes))
    if queues:
        entry["queues"] = list(queues)
    if rate is not None:
        entry["rate"] = rate
    if burst is not None:
        entry["burst"] = burst
    lines = [f"{field} = {_toml(value)}" for field, value in entry.items()]
    _Reader(TomlFile("keys new", {"keys": [entry]}, {})).read()
    return secret, "\n".join(["[[keys]]", *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else f"{value:.15g}"


class _Reader:
    """Reads one document and collects its mistakes."""

    def __init__(self, file: TomlFile) -> None:
        self._file = file
        self._mistakes: list[Mistake] = []

    def read(self) -> Keys:
        """Raises MistakesError."""
        document = self._file.values
        for name in document.keys() - {"keys"}:
            self._wrong(None, name, "is unknown; the file may hold only [[keys]] tables")
        entries = document.get("keys")
        if entries is None:
            self._wrong(None, "", "has no [[keys]] table; make one with `kestrel-gateway keys new`")
        elif not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            self._wrong(None, "keys", "is not an array of tables; write [[keys]]")
        else:
            found = [self._key(index, entry) for index, entry in enumerate(entries)]
            self._apart(entries)
            self._alike(found)
        if self._mistakes:
            raise MistakesError(sorted(self._mistakes))
        keys = [key for key in found if key is not None]
        tenanted = {bool(key.tenant) for key in keys if not _fits_both(key)}
        return Keys({key.digest: key for key in keys}, tenanted.pop() if tenanted else None)

    def _key(self, index: int, entry: Mapping[str, Any]) -> Key | None:
        before = len(self._mistakes)
        for field in entry:
            if field not in _FIELDS:
                self._wrong(index, field, f"is unknown; allowed are {', '.join(_FIELDS)}")
        name = self._text(index, entry, "name", _NAME, "1 to 64 letters, digits, '.', '_', '@', '-'")
        digest = self._digest(index, entry)
        scopes = frozenset(self._scopes(index, entry))
        tenant = self._tenant(index, entry, scopes)
        queues = tuple(self._patterns(index, entry))
        rate, burst = self._rate(index, entry)
        if len(self._mistakes) > before:
            return None
        return Key(name, digest, tenant, scopes, queues, rate, burst)

    def _text(self, index: int, entry: Mapping[str, Any], field: str, pattern: re.Pattern[str], allowed: str) -> str:
        value = entry.get(field)
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self._wrong(index, field, "is missing" if field not in entry else f"{_shown(value)} is not {allowed}")
        return ""

    def _digest(self, index: int, entry: Mapping[str, Any]) -> bytes:
        value = entry.get("sha256")
        if isinstance(value, str) and _DIGEST.fullmatch(value):
            return bytes.fromhex(value)
        # The value may be the secret itself, so it is not shown.
        self._wrong(index, "sha256", "is missing" if value is None else "is not 64 hex digits (the value is not shown)")
        return b""

    def _tenant(self, index: int, entry: Mapping[str, Any], scopes: frozenset[Scope]) -> str:
        if "tenant" not in entry:
            return ""
        value = entry["tenant"]
        if value == EVERY_TENANT:
            if scopes and scopes != {Scope.OBSERVE}:
                self._wrong(
                    index,
                    "tenant",
                    "'*' is allowed only with scopes = [\"observe\"]; name one tenant, or give the key only this scope",
                )
            return EVERY_TENANT
        try:
            if not isinstance(value, str):
                raise InvalidName(f"{_shown(value)} is not a string")
            check_name(value, "tenant")
        except InvalidName as exc:
            self._wrong(index, "tenant", str(exc))
            return ""
        return value

    def _scopes(self, index: int, entry: Mapping[str, Any]) -> Iterator[Scope]:
        value = entry.get("scopes")
        allowed = ", ".join(scope.value for scope in Scope)
        if not isinstance(value, list) or not value:
            wrong = "is empty" if value == [] else "is not an array"
            what = "is missing" if value is None else f"{_shown(value)} {wrong}"
            self._wrong(index, "scopes", f"{what}; give at least one of {allowed}")
            return
        for each in value:
            try:
                yield Scope(each)
            except ValueError:
                self._wrong(index, "scopes", f"{_shown(each)} is not one of {allowed}")

    def _patterns(self, index: int, entry: Mapping[str, Any]) -> Iterator[str]:
        if "queues" not in entry:
            return
        value = entry["queues"]
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_PATTERNS:
            self._wrong(index, "queues", f"{_shown(value)} is not an array of 1 to {MAX_PATTERNS} patterns")
            return
        for each in value:
            if isinstance(each, str) and glob.QUEUES.fullmatch(each):
                yield each
            else:
                self._wrong(
                    index,
                    "queues",
                    f"{_shown(each)} is not a pattern; use 1 to 64 of A-Z a-z 0-9 _ - and wildcards * ?, "
                    "and for subscriptions a + and another such pattern",
                )

    def _rate(self, index: int, entry: Mapping[str, Any]) -> tuple[float, int]:
        if "rate" not in entry:
            if "burst" in entry:
                self._wrong(index, "burst", "needs a rate; add rate, or remove burst")
            return 0.0, 0
        rate = entry["rate"]
        if type(rate) not in {int, float} or not 0.001 <= rate <= MAX_RATE:
            self._wrong(index, "rate", f"{_shown(rate)} is not a number of requests a second from 0.001 to {MAX_RATE}")
            return 0.0, 0
        burst = entry.get("burst", max(1, math.ceil(rate)))
        if type(burst) is not int or not 1 <= burst <= MAX_RATE:
            self._wrong(index, "burst", f"{_shown(burst)} is not a whole number from 1 to {MAX_RATE}")
            return 0.0, 0
        return float(rate), burst

    def _apart(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """No two keys have the same name or secret; checked even if they have other mistakes."""
        names: set[str] = set()
        digests: set[str] = set()
        for index, entry in enumerate(entries):
            name, digest = entry.get("name"), entry.get("sha256")
            if isinstance(name, str):
                if name in names:
                    self._wrong(index, "name", f"{_shown(name)} is already the name of another key")
                names.add(name)
            if isinstance(digest, str):
                if digest.lower() in digests:
                    self._wrong(index, "sha256", "is already the digest of another key")
                digests.add(digest.lower())

    def _alike(self, found: Iterable[Key | None]) -> None:
        """All keys have a tenant, or none has."""
        tenanted: bool | None = None
        for index, key in enumerate(found):
            if key is None:
                continue
            if key.tenant and Scope.OPERATOR in key.scopes:
                self._wrong(
                    index, "scopes", "'operator' covers the whole deployment; a key with a tenant cannot have it"
                )
            if _fits_both(key):
                continue
            if tenanted is None:
                tenanted = bool(key.tenant)
            elif tenanted != bool(key.tenant):
                self._wrong(
                    index,
                    "tenant",
                    (f"{key.tenant!r} is given, but earlier keys have no tenant" if key.tenant else "is missing")
                    + "; give every key a tenant, or no key "
                    "(a key with only the scope operator has none in both cases)",
                )

    def _wrong(self, index: int | None, field: str, what: str) -> None:
        key, place = (f"keys[{index + 1}].{field}", ("keys", index, field)) if index is not None else (field, (field,))
        self._mistakes.append(self._file.mistake(f"{key} {what}".strip(), *place))


def _fits_both(key: Key) -> bool:
    """Whether the key fits a deployment with tenants and one without."""
    return key.scopes == {Scope.OPERATOR} or key.tenant == EVERY_TENANT


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
