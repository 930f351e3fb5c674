"""TCP ports for servers that are started later, or again on the same port.

They lie below the range that the kernel takes the ports of outgoing connections from, so that no client of another
test gets one meanwhile. Processes that run at the same time begin at places of their own.
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
LAST: Final = 32_000
"""Linux takes 32768 to 60999 for outgoing connections. Source: ip(7), ip_local_port_range."""


def _candidates() -> Iterator[int]:
    begin = random.Random(f"{os.getpid()} {os.environ.get('PYTEST_XDIST_WORKER')}").randrange(FIRST, LAST)
    return itertools.chain(range(begin, LAST), itertools.cycle(range(FIRST, LAST)))


_next = _candidates()


def free_port() -> int:
    """A port on which no process listens at this moment. This process gives each port once."""
    for port in _next:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise AssertionError("the candidates do not end")
