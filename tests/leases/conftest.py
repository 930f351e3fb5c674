"""A broker whose queues have limits, for what the tests of moves ask of it."""

from collections.abc import Iterator

import pytest

from tests.lab.broker import BrokerProcess
from tests.lab.ledger import ledger_balances

__all__ = ["broker", "ledger_balances", "own_broker"]

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


@pytest.fixture
def own_broker(tmp_path) -> Iterator[BrokerProcess]:
    """One that the test may stop."""
    with BrokerProcess(tmp_path / "data", "--fsync", "off", config=LIMITS) as broker:
        yield broker
