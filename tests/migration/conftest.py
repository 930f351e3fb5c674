"""The servers of a move and of an import. The tests of a file share them, and each begins without a queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.broker import BrokerProcess


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerProcess, BrokerProcess]]:
    folder = tmp_path_factory.mktemp("servers")
    with BrokerProcess(folder / "old") as old, BrokerProcess(folder / "new") as new:
        yield old, new


def emptied(server: BrokerProcess) -> BrokerProcess:
    """It runs, as after its start on an empty directory: no clients of an earlier test, and no queues."""
    for each in server.clients:
        each.close()
    server.clients.clear()
    if server.process.poll() is not None:
        server.start()
    client = server.client()
    for key in client.queues():
        assert client.ask(b"delete %b\r\n" % key.encode()) == b"DELETED\r\n"
    assert client.queues() == {}
    return server


@pytest.fixture
def old(servers: tuple[BrokerProcess, BrokerProcess]) -> BrokerProcess:
    return emptied(servers[0])


@pytest.fixture
def new(servers: tuple[BrokerProcess, BrokerProcess]) -> BrokerProcess:
    return emptied(servers[1])
