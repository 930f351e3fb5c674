"""What all tests share."""

import itertools
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest

from tests.lab import ledger
from tests.lab.examples import examples
from tests.lab.forkserver import ForkedProcess
from tests.lab.gateway import Running, running

hypothesis.settings.register_profile(
    "tests",
    deadline=None,  # the machine is shared: an example's time says nothing
    max_examples=examples(100),
)
hypothesis.settings.load_profile("tests")

# `make coverage` measures only processes that Python starts.
ForkedProcess.enabled = "COVERAGE_PROCESS_CONFIG" not in os.environ

_left_out: dict[str, list[str]] = defaultdict(list)
"""The slow tests that the command line leaves out, by their file."""


LONGEST = (
    "hold/test_hold.py",
    "broker/test_damage.py",
    "process/test_supervisor.py",
    "api/test_schemathesis.py",
    "work/test_endpoint.py",
    "work/test_exec.py",
    "test_curl_examples.py",
    "broker/test_durability.py",
    "leases/test_replicas.py",
    "clients/test_examples_refuse.py",
    "chaos/test_storm.py",
    "contract_file/test_linters.py",
    "api/test_cloudevents.py",
    "api/test_idempotency.py",
    "api/test_settlements.py",
    "test_ledger_damage.py",
    "test_drain.py",
    "kestrel/test_backend_port.py",
    "clients/test_examples.py",
    "api/test_keys.py",
    "api/test_tenants.py",
    "api/test_at_most_once.py",
    "delay/test_holding.py",
)
"""The files that take longest. Workers begin with them, so that none is still busy with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {str(Path(__file__).parent / name): rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(str(item.path), len(LONGEST)))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        # The run of the tests that are `alone` does not know the other ones.
        if item.get_closest_marker("slow") and not item.config.option.markexpr.startswith("alone"):
            _left_out[item.location[0]].append(item.name)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under pytest-xdist each worker selects the tests, and tells the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(_left_out)


class LeftOutElsewhere:
    """Receives what the workers of pytest-xdist have left out. All have left out the same."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        _left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LeftOutElsewhere())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists the slow tests that were left out."""
    if _left_out:
        terminalreporter.section("slow tests left out; `make test-all` runs them")
        for file, names in sorted(_left_out.items()):
            terminalreporter.write_line(f"{file}: {', '.join(names) if len(names) < 4 else f'{len(names)} tests'}")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short name, for sockets: their paths hold about 100 bytes, and tmp_path may be long."""
    path = Path(tempfile.mkdtemp(prefix="kg", dir="/tmp"))
    yield path
    shutil.rmtree(path)


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
    """Makes unused queue names."""
    return lambda: f"q{next(_numbers)}"


@pytest.fixture
def queue(new_queue: Callable[[], str]) -> str:
    """The name of an unused queue."""
    return new_queue()
