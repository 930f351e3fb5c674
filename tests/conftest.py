"""What all tests share."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests import ledger
from tests.running import Running, running


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root directory."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with its defaults, shared by tests that leave it alive; each uses queues of its own."""
    with running(tmp_path_factory.mktemp("gateway") / "data") as shared:
        yield shared


@pytest.fixture
def http(gateway: Running) -> Iterator[httpx.Client]:
    """An HTTP client of the shared gateway."""
    with gateway.client() as client:
        yield client


@pytest.fixture
def ledger_balances() -> Iterator[None]:
    """After the test the ledger of leases balances in every gateway that runs."""
    yield
    ledger.check_all()


_numbers = itertools.count()


@pytest.fixture
def new_queue() -> Callable[[], str]:
    """Makes queue names nobody has used."""
    return lambda: f"q{next(_numbers)}"


@pytest.fixture
def queue(new_queue: Callable[[], str]) -> str:
    """A queue nobody has used."""
    return new_queue()
