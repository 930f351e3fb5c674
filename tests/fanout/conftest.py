"""What the tests of subscriptions share."""

from tests.lab.ledger import ledger_balances

__all__ = ["ledger_balances"]
