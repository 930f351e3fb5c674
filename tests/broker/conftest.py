"""Brokers that tests share: each test takes queue names of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.lab.broker import BrokerProcess
from tests.lab.memcache import MemcacheClient

_names = itertools.count()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker with default limits; fsync is off, for kill -9 does not need it."""
    with BrokerProcess(tmp_path_factory.mktemp("shared") / "data", "--fsync", "off") as running:
        yield running


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[MemcacheClient]:
    connected = broker.client()
    yield connected
    connected.close()


@pytest.fixture
def other(broker: BrokerProcess) -> Iterator[MemcacheClient]:
    connected = broker.client()
    yield connected
    connected.close()


@pytest.fixture
def name() -> str:
    """The name of a queue that no other test uses."""
    return f"queue{next(_names)}"
