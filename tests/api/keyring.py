"""Keys of a test: a file, and clients that bear them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx

from gateway.config.keys import new
from tests.lab.gateway import Running


class Keyring:
    """A keys file and the secrets of its keys, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets: dict[str, str] = {}
        self._tables: dict[str, str] = {}

    def add(self, name: str, tenant: str = "", scopes: str = "produce consume admin", **options: Any) -> str:
        """A new key in the file; returns its secret."""
        self.secrets[name], self._tables[name] = new(name, tenant, scopes.split(), **options)
        self._write()
        return self.secrets[name]

    def change(self, name: str, tenant: str = "", scopes: str = "produce consume admin", **options: Any) -> None:
        """The key may do something else from now on; its secret stays."""
        digest = re.compile('sha256 = "[0-9a-f]*"')
        same = digest.findall(self._tables[name])[0]
        self._tables[name] = digest.sub(same, new(name, tenant, scopes.split(), **options)[1])
        self._write()

    def remove(self, name: str) -> None:
        """The key is no longer in the file; its secret is still known here."""
        del self._tables[name]
        self._write()

    def client(self, gateway: Running, name: str) -> httpx.Client:
        """A client that bears the key."""
        return gateway.client(headers=self.bearer(name))

    def bearer(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[name]}"}

    def _write(self) -> None:
        self.path.write_text("keys = []\n" if not self._tables else "\n".join(self._tables.values()))
