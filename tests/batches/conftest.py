"""What the tests of batches share."""

from tests.lab.ledger import ledger_balances

__all__ = ["ledger_balances"]
