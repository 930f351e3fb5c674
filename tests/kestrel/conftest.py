"""The embedded broker as a real process, for what the stand-in would only imitate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.broker import BrokerProcess


def on_a_socket(directory: Path) -> BrokerProcess:
    """A broker on Unix sockets, everything in this directory."""
    return BrokerProcess(
        directory / "data",
        "--fsync",
        "off",
        listen=f"unix:{directory / 'broker.sock'}",
        worker_socket=str(directory / "workers.sock"),
    )


def renew(broker: BrokerProcess) -> None:
    """It runs, accepts items, and has no queue."""
    if broker.process.poll() is None:
        broker.thaw()
    else:
        broker.start()
    with contextlib.closing(broker.client()) as memcache:
        memcache.ask(b"status up\r\n")
        for key in memcache.queues():
            memcache.ask(f"delete {key}\r\n".encode())


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that tests leave alive; each uses queues of its own."""
    with on_a_socket(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(scope="session")
def renewed_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """The process of `own_broker`."""
    with on_a_socket(tmp_path_factory.mktemp("own")) as broker:
        yield broker


@pytest.fixture
def own_broker(renewed_broker: BrokerProcess) -> Iterator[BrokerProcess]:
    """A broker without queues that the test may kill, freeze or make read-only."""
    yield renewed_broker
    renew(renewed_broker)
