"""A proxy that holds the answers of a gateway with a job, so that a test can act while one is under way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

from tests.lab.ports import HOST


class HoldingProxy:
    """Passes on what clients and a gateway send each other. Use as a context manager.

    hold: is called when the gateway has answered with a lease; the answer is passed on when it returns.
    """

    def __init__(self, url: str, hold: Callable[[], None]) -> None:
        parts = urlsplit(url)
        self._gateway = (parts.hostname or "", parts.port or 0)
        self._hold = hold
        self._listener = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                gateway = socket.create_connection(self._gateway)
                threading.Thread(target=self._requests, args=(client, gateway), daemon=True).start()
                threading.Thread(target=self._answers, args=(gateway, client), daemon=True).start()

    def _requests(self, client: socket.socket, gateway: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                gateway.sendall(data)
            gateway.shutdown(socket.SHUT_RDWR)

    def _answers(self, gateway: socket.socket, client: socket.socket) -> None:
        with gateway, client, contextlib.suppress(OSError):
            while data := gateway.recv(65536):
                if b"\r\nlease-id:" in data.lower():
                    self._hold()
                client.sendall(data)
