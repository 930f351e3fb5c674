"""The broker's TOML file: limits of queues, and the time after which idle clients are dropped. Reads only that file.

client_timeout = 0              # seconds a connection may be idle, also while it waits; 0: no limit

[default]                       # every queue
max_items = 1000000

[queues.emails]                 # one queue; its fanout children (emails+x) inherit
max_age = 3600.0
expire_to_queue = "late"

[queues."emails+audit"]         # one child
max_items = 1000
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.common.net import reason

UNLIMITED = 2**62
_NAME = re.compile(r"[^\x00-\x20\x7f./~]{1,255}\Z")


class ConfigError(ValueError):
    """The file cannot be used. The message names the file, the key and what is allowed."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits of one queue. Durations in seconds; 0 means no limit."""

    max_items: int = UNLIMITED
    max_bytes: int = UNLIMITED
    max_item_bytes: int = UNLIMITED
    max_age: float = 0.0
    discard_old_when_full: bool = False
    expire_to_queue: str = ""
    fanout_only: bool = False
    open_transaction_timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. `limits(name)` are the limits of one queue. max_item_bytes: the largest that any queue allows."""

    client_timeout: float = 0.0
    max_item_bytes: int = UNLIMITED
    default: QueueLimits = QueueLimits()
    queues: dict[bytes, dict[str, Any]] = field(default_factory=dict)

    def limits(self, name: bytes) -> QueueLimits:
        """The limits of `name`: the default, then its parent's if it is a fanout child, then its own."""
        found = dataclasses.replace(self.default, **self.queues.get(name.partition(b"+")[0], {}))
        if b"+" in name:
            found = dataclasses.replace(found, **self.queues.get(name, {}))
        return dataclasses.replace(found, max_item_bytes=min(found.max_item_bytes, self.max_item_bytes))


def load(path: Path | None, max_item_bytes: int = UNLIMITED) -> Config:
    """The configuration in `path`, or the defaults for None. max_item_bytes: as in Config. Raises ConfigError."""
    if path is None:
        return Config(max_item_bytes=max_item_bytes)
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{path}: {reason(exc)}") from exc
    unknown = table.keys() - {"client_timeout", "default", "queues"}
    if unknown:
        raise ConfigError(f"{path}: unknown key {min(unknown)!r}; allowed are client_timeout, default, queues")
    timeout = _checked(path, "client_timeout", float, table.get("client_timeout", 0.0))
    queues: dict[bytes, dict[str, Any]] = {}
    for name, entry in _table(path, "queues", table.get("queues", {})).items():
        if not _NAME.match(name):
            raise ConfigError(f"{path}: queues.{name!r} is not a queue name")
        queues[name.encode()] = _limits(path, f"queues.{name}", entry)
    default = QueueLimits(**_limits(path, "default", table.get("default", {})))
    return Config(client_timeout=timeout, max_item_bytes=max_item_bytes, default=default, queues=queues)


def _table(path: Path, key: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ConfigError(f"{path}: {key} is not a table")
    return entry


def _limits(path: Path, key: str, entry: Any) -> dict[str, Any]:
    known = {spec.name: type(spec.default) for spec in dataclasses.fields(QueueLimits)}
    found = _table(path, key, entry)
    for name in found:
        if name not in known:
            raise ConfigError(f"{path}: unknown key {key}.{name}; allowed are {', '.join(known)}")
    return {name: _checked(path, f"{key}.{name}", known[name], value) for name, value in found.items()}


def _checked(path: Path, key: str, kind: type[Any], value: Any) -> Any:
    """`value` as `kind`. Raises ConfigError if it is of another kind or out of range."""
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{path}: {key} is not {_KINDS[kind]}: {value!r}")
    if kind is float and not 0 <= value <= 1e9:
        raise ConfigError(f"{path}: {key} is not between 0 and 1000000000 seconds: {value!r}")
    if kind is int and not 0 <= value <= UNLIMITED:
        raise ConfigError(f"{path}: {key} is not between 0 and {UNLIMITED}: {value!r}")
    if kind is str and value and not _NAME.match(value):
        raise ConfigError(f"{path}: {key} is not a queue name: {value!r}")
    return value


_KINDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
