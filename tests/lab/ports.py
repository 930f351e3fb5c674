"""TCP ports for servers that are started later, or again on the same port.

They lie below the range that the kernel takes the ports of outgoing connections from, so that no client of another
test gets one meanwhile. A process claims them by the block, as long as it lives: no other process that runs tests on
this machine gives a port of the block, also while nothing listens on it.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Iterator
from typing import Final

HOST: Final = "127.0.0.1"
PORTS: Final = range(10_100, 32_000)
"""Linux takes 32768 to 60999 for outgoing connections. Source: ip(7), ip_local_port_range. Browsers refuse 10080.
Source: Fetch Standard, port blocking."""
BLOCK: Final = 50
CLAIM: Final = "\0kestrel-gateway-tests-ports-{}"
"""The name of the socket that claims the block that begins with this port. It is abstract, so it is of the same network
namespace as the ports, and ends with its process. Source: unix(7)."""


class Ports:
    """The ports that one process gives."""

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []
        self._next = self._candidates()
        self._one_at_a_time = threading.Lock()

    def free(self) -> int:
        """See free_port."""
        with self._one_at_a_time:
            for port in self._next:
                with contextlib.suppress(OSError), socket.socket() as probe:
                    probe.bind((HOST, port))
                    return port
        raise AssertionError(f"all ports from {PORTS.start} to {PORTS.stop} are claimed or taken")

    def _candidates(self) -> Iterator[int]:
        blocks = list(range(PORTS.start, PORTS.stop, BLOCK))
        random.Random(os.getpid()).shuffle(blocks)
        for first in blocks:
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(CLAIM.format(first))
            except OSError:
                claim.close()
                continue
            self._claims.append(claim)
            yield from range(first, first + BLOCK)


_ports = Ports()


def _begin() -> None:
    """In a forked process: its parent goes on with the blocks that it has claimed."""
    global _ports  # noqa: PLW0603 (a process has one)
    _ports = Ports()


os.register_at_fork(after_in_child=_begin)


def free_port() -> int:
    """A port on which no process listens at this moment. This process gives each port once, and no other one does."""
    return _ports.free()
