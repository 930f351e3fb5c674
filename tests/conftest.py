"""What all tests share."""

import itertools
import os
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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

# A shell makes programs that it starts in the background ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# `make coverage` measures only processes that Python starts.
ForkedProcess.enabled = "COVERAGE_PROCESS_CONFIG" not in os.environ

_left_out: dict[str, list[str]] = defaultdict(list)
"""The slow tests that the command line leaves out, by their file."""


LONGEST = (
    "migration/test_import.py",
    "hold/test_hold.py",
    "broker/test_damage.py",
    "work/test_exec.py",
    "api/test_schemathesis.py",
    "migration/test_moving.py",
    "process/test_supervisor.py",
    "broker/test_durability.py",
    "leases/test_replicas.py",
    "test_curl_examples.py",
    "streams/test_stream.py",
    "fanout/test_members.py",
    "api/test_dead_letter_jobs.py",
    "clients/test_examples_refuse.py",
    "test_drain.py",
    "api/test_metrics.py",
    "work/test_endpoint.py",
    "broker/test_limits.py",
    "api/test_pause.py",
    "api/test_settlements.py",
    "clients/test_examples.py",
    "kestrel/test_waiting.py",
    "kestrel/test_cluster.py",
    "api/test_idempotency.py",
    "monitoring/test_traces.py",
    "process/test_clients.py",
    "delay/test_holding.py",
    "kestrel/test_backend_port.py",
    "chaos/test_closing.py",
    "process/test_cli.py",
    "api/test_vanishing.py",
    "test_retry_delay.py",
    "control/test_control.py",
    "broker/test_transcript.py",
    "leases/test_deleted_elsewhere.py",
    "test_ledger_damage.py",
    "process/test_systemd.py",
    "fanout/test_http.py",
    "kestrel/test_server.py",
    "api/test_leases.py",
    "broker/test_sessions.py",
    "leases/test_cancellation.py",
    "multiplex/test_link.py",
    "api/test_keys.py",
    "client/test_transfer.py",
    "monitoring/test_queue_metrics.py",
    "kestrel/test_puts.py",
    "client/test_output.py",
)
"""The files that take longest. Workers begin with them, so that none is still busy with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {str(Path(__file__).parent / name): rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(str(item.path), len(LONGEST)))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow"):
            _left_out[item.location[0]].append(item.name)


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
