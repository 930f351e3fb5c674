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
    "work/test_exec.py",
    "hold/test_hold.py",
    "test_curl_examples.py",
    "broker/test_durability.py",
    "broker/test_large_items.py",
    "work/test_endpoint.py",
    "broker/test_damage.py",
    "process/test_supervisor.py",
    "streams/test_stream.py",
    "leases/test_replicas.py",
    "api/test_pause.py",
    "fanout/test_members.py",
    "api/test_vanishing.py",
    "batches/test_batches.py",
    "kestrel/test_waiting.py",
    "api/test_schemathesis.py",
    "control/test_control.py",
    "broker/test_sessions.py",
    "monitoring/test_traces.py",
    "migration/test_moving.py",
    "kestrel/test_cluster.py",
    "multiplex/test_link.py",
    "client/test_jobs.py",
    "api/test_poison.py",
    "broker/test_limits.py",
    "kestrel/test_server.py",
    "api/test_cloudevents.py",
    "api/test_metrics.py",
    "broker/test_transcript.py",
    "monitoring/test_queue_metrics.py",
    "process/test_clients.py",
    "fanout/test_http.py",
    "api/test_idempotency.py",
    "test_retry_delay.py",
    "delay/test_holding.py",
    "hold/test_cycles.py",
    "monitoring/test_deploy.py",
    "api/test_backends.py",
    "process/test_half_open.py",
    "api/test_settlements.py",
    "migration/test_import.py",
    "contract/test_copies.py",
    "api/test_leases.py",
    "api/test_page.py",
    "test_drain.py",
    "client/test_transfer.py",
    "api/test_senders.py",
    "process/test_silent.py",
    "process/test_requests.py",
    "leases/test_deleted_elsewhere.py",
    "hold/test_tenants.py",
    "api/test_keys.py",
    "chaos/test_storm.py",
    "kestrel/test_backend_port.py",
    "batches/test_cut_bodies.py",
    "kestrel/test_broker.py",
    "multiplex/test_interleavings.py",
    "api/test_caps.py",
    "interactions/test_one_server.py",
    "test_ledger_damage.py",
    "api/test_delay.py",
    "leases/test_moves.py",
    "kestrel/test_imitators.py",
    "api/test_preferred.py",
    "api/test_addresses.py",
    "client/test_output.py",
    "test_ledger.py",
    "contract/test_names.py",
    "process/test_stopping.py",
    "batches/test_lines.py",
    "migration/test_replay.py",
    "api/test_jobs.py",
)
"""The files that take longest. Workers begin with them, so that none is still busy with one at the end. Those that wait
most of the time stand between those that compute."""


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
