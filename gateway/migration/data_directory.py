"""A data directory of the embedded broker as a destination: the broker runs while the directory is written.

The broker is a child process on a private socket. It ends with this process, however that ends, and refuses a directory
that a gateway uses.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.common.channel import GROUP_SIGNALS, encode
from gateway.kestrel.address import Address
from gateway.migration.kestrel_connection import KestrelFailed

_END_S: Final = 30.0
"""Longer than the broker takes to write its log into its database, also on a slow disk."""


@contextlib.contextmanager
def serving(data: Path, config: Path | None) -> Iterator[Address]:
    """The address of a broker for the directory, which ends with the block. Raises KestrelFailed."""
    with tempfile.TemporaryDirectory(prefix="kestrel-gateway-") as folder:
        path = f"{folder}/broker.sock"
        command = ["--listen", f"unix:{path}", "--data", str(data), "--log-level", "warning"]
        if config is not None:
            command += ["--config", str(config)]
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [sys.executable, "-P", "-m", "gateway.broker", *command, "--channel-fd", str(theirs.fileno())]
            process = _started(command, theirs)
            theirs.close()
            lines = ours.makefile("rb")
            try:
                first = lines.readline()
                if not first or json.loads(first).get("event") != "ready":
                    raise KestrelFailed(f"the broker did not start on {data}", retryable=False)
                yield Address("", 0, path)
                ours.sendall(encode({"command": "stop"}))
                process.wait(_END_S)
            finally:
                lines.close()
                process.kill()
                process.wait()


def _started(command: list[str], channel: socket.socket) -> subprocess.Popen[bytes]:
    """The broker. The signals of a terminal reach it only once it ignores them."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        return subprocess.Popen(command, pass_fds=[channel.fileno()])  # noqa: S603 (this very program)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
