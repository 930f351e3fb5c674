"""The gateway that a command calls, and the key that it sends: from flags, variables and one file of settings."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.common.net import is_host, reason

DEFAULT_URL: Final = "http://127.0.0.1:8080"
URL_VARIABLE: Final = "KESTREL_GATEWAY_URL"
KEY_VARIABLE: Final = "KESTREL_GATEWAY_KEY"
KEY_FILE_VARIABLE: Final = "KESTREL_GATEWAY_KEY_FILE"
FILE_VARIABLE: Final = "KESTREL_GATEWAY_CLIENT_CONFIG"
VARIABLES: Final = (URL_VARIABLE, KEY_VARIABLE, KEY_FILE_VARIABLE, FILE_VARIABLE)

_URL: Final = re.compile(r"https?://[^/?#@\s\x00-\x1f\x7f]+(/[^?#@\s\x00-\x1f\x7f]*)?")
_NAMES: Final = ("url", "key", "key_file")


class TargetError(ValueError):
    """A URL, a key or the file of settings is wrong. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """url: without a slash at its end. key: empty if the gateway has no keys."""

    url: str
    key: str = field(default="", repr=False)


def default_file(environment: Mapping[str, str]) -> Path:
    """The file of settings that is read if no other is named. Source: the XDG Base Directory Specification."""
    home = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "kestrel-gateway" / "client.toml"


def find(
    *,
    url: str | None = None,
    key: str | None = None,
    key_file: Path | None = None,
    config: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Target:
    """The target. A flag outranks a variable, and a variable outranks the file of settings. Raises TargetError.

    The file's key is used only with the file's URL: a key never goes to a gateway that it was not written down for.
    """
    settings = _read(config, environment)
    given_url = environment.get(URL_VARIABLE) if url is None else url
    address = url if url is not None else given_url or settings.get("url") or DEFAULT_URL
    if not is_url(address):
        raise TargetError(f"url: {address!r} is not a URL such as {DEFAULT_URL}")
    if key == "":
        raise TargetError("key: the value is empty; leave --key out if the gateway has no keys")
    if key and key_file:
        raise TargetError("key: --key-file is given, too; give only one of them")
    secret = _secret(key, key_file)
    if secret is None:
        file = environment.get(KEY_FILE_VARIABLE)
        secret = _secret(environment.get(KEY_VARIABLE), Path(file) if file else None)
    if secret is None and not (given_url and given_url != settings.get("url")):
        file = settings.get("key_file")
        secret = _secret(settings.get("key"), Path(file).expanduser() if file else None)
    if secret and not re.fullmatch("[!-~]+", secret):
        raise TargetError("key: a key consists of visible ASCII characters without spaces")
    return Target(address.rstrip("/"), secret or "")


def is_url(text: str) -> bool:
    """Whether it is the URL of a gateway: with a host and, if it names a port, a valid one."""
    try:
        return bool(_URL.fullmatch(text)) and is_host(urlsplit(text).hostname or "") and urlsplit(text).port != 0
    except ValueError:
        return False


def _secret(key: str | None, file: Path | None) -> str | None:
    """The key, from a file if there is no key itself; None without either. Raises TargetError."""
    if key or file is None:
        return key or None
    try:
        secret = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise TargetError(f"key-file: {file} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if not secret:
        raise TargetError(f"key-file: {file} is empty")
    return secret


def _read(named: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    if named is None and environment.get(FILE_VARIABLE):
        named = Path(environment[FILE_VARIABLE])
    file = named or default_file(environment)
    try:
        found: dict[str, Any] = tomllib.loads(file.read_text())
    except FileNotFoundError as exc:
        if named is None:
            return {}
        raise TargetError(f"config: {file} does not exist") from exc
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise TargetError(f"config: {file} cannot be read: {reason(exc)}") from exc
    for name, value in found.items():
        if name not in _NAMES:
            raise TargetError(f"config: {file}: {name!r} is not a setting; the settings are {', '.join(_NAMES)}")
        if not isinstance(value, str):
            raise TargetError(f"config: {file}: {name} is not a string")
    return found
