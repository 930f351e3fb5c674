"""Proxies that hold what passes through them, so that a test can act while a request or a command is under way."""

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


class GatedProxy:
    """Passes on what clients and a server send each other. Use as a context manager.

    Of each connection what follows the first `limit_bytes` from the client waits: then `reached` is set, and the rest
    passes once the test sets `gate`.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self.limit_bytes = 1 << 60
        self.reached = threading.Event()
        self.gate = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def hold_after(self, limit_bytes: int) -> None:
        """For the connections to come."""
        self.limit_bytes = limit_bytes
        self.reached.clear()
        self.gate.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answers, args=(server, client), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        left = self.limit_bytes
        with contextlib.suppress(OSError):
            while data := client.recv(4096):
                left -= len(data)
                if left <= 0:
                    self.reached.set()
                    self.gate.wait()
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with server, client, contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
