"""Asks a gateway whether it is ready. Loads as little as possible: containers ask every few seconds."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 3.0
"""Below the time that the image's HEALTHCHECK has, so that a line says why."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the Unix socket at `path`."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def status_of(url: str, *, path: str = "", verify: bool = True) -> int:
    """The status that `url` answers, without a proxy and without following a redirect.

    path: of the Unix socket to ask. verify: whether the certificate must be valid for the URL.
    Raises OSError, http.client.HTTPException, ValueError.
    """
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in {"http", "https"}:
        raise ValueError("not a URL that begins with http:// or https://")
    connection: http.client.HTTPConnection
    if path:
        connection = UnixConnection(path)
    elif parts.scheme == "https":
        context = ssl.create_default_context() if verify else ssl._create_unverified_context()  # noqa: S323, SLF001
        connection = http.client.HTTPSConnection(parts.netloc, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
        return connection.getresponse().status
    finally:
        connection.close()
