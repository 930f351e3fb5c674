"""The embedded broker as a real process, for what the stand-in would only imitate."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


class Broker:
    """A broker process on a Unix socket in a directory of its own; `start` and `kill` may alternate."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.listen = f"unix:{directory / 'broker.sock'}"
        self.address = self.listen
        self.start()

    def start(self) -> None:
        """Starts it and returns when it is ready."""
        self.channel, theirs = socket.socketpair()
        command = [sys.executable, "-m", "gateway.broker", "--listen", self.listen, "--data", str(self.data)]
        with theirs:
            flags = ["--fsync", "off", "--log-level", "error", "--channel-fd", str(theirs.fileno())]
            self.process = subprocess.Popen([*command, *flags], pass_fds=[theirs.fileno()])
        with self.channel.makefile() as lines:
            line = lines.readline()
        assert line, "the broker ended before it was ready"
        assert json.loads(line)["event"] == "ready"

    def kill(self) -> None:
        """Ends it at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.channel.close()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that tests leave alive; each uses queues of its own."""
    broker = Broker(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.kill()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may kill."""
    broker = Broker(tmp_path)
    yield broker
    broker.kill()
