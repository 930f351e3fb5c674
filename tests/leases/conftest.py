"""A broker whose queues have limits, for what the tests of moves ask of it."""

from collections.abc import Iterator

import pytest

from tests.kestrel.conftest import renew
from tests.lab.broker import BrokerProcess
from tests.lab.ledger import ledger_balances

__all__ = ["broker", "ledger_balances", "own_broker", "renewed_broker"]

LIMITS = """
[queues.small]
max_items = 1
[queues.ring]
max_items = 2
discard_old_when_full = true
[queues.tight]
max_item_bytes = 300
[queues.full-dead__dead]
max_items = 0
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """Shared by tests that leave it alive."""
    with BrokerProcess(tmp_path_factory.mktemp("broker") / "data", "--fsync", "off", config=LIMITS) as broker:
        yield broker


@pytest.fixture(scope="module")
def renewed_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """The process of `own_broker`."""
    with BrokerProcess(tmp_path_factory.mktemp("own") / "data", "--fsync", "off", config=LIMITS) as broker:
        yield broker


@pytest.fixture
def own_broker(renewed_broker: BrokerProcess) -> Iterator[BrokerProcess]:
    """One without queues that the test may kill, freeze or make read-only."""
    yield renewed_broker
    renew(renewed_broker)
