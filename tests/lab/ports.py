"""TCP ports for servers that are started later, or again on the same port.

They lie below the range that the kernel takes the ports of outgoing connections from, so that no client of another
test gets one meanwhile, and neither does another process that runs tests.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator
from typing import Final

HOST: Final = "127.0.0.1"
FIRST: Final = 10_000
SLOT: Final = 2_000
SLOTS: Final = 11
"""They end at 32,000. Linux takes 32768 to 60999 for outgoing connections. Source: ip(7), ip_local_port_range."""


def _candidates(slot: int) -> Iterator[int]:
    ports = range(FIRST + slot * SLOT, FIRST + (slot + 1) * SLOT)
    begin = random.Random(os.getpid()).randrange(SLOT)  # another run may be in the same slot
    return itertools.chain(ports[begin:], itertools.cycle(ports))


_next = _candidates(SLOTS - 1)


def take_slot(number: int) -> None:
    """From now on this process gives ports of the slot: each worker has its own, another process the last."""
    global _next  # noqa: PLW0603 (a process has one)
    _next = _candidates(number % (SLOTS - 1))


def free_port() -> int:
    """A port on which no process listens at this moment. This process gives each port once."""
    for port in _next:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise AssertionError("the candidates do not end")
