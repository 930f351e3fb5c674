"""What the tests of the API share."""

from tests.lab.ledger import ledger_balances

__all__ = ["ledger_balances"]
