"""Descriptors: the need is computed as documented, the soft limit raised, and a shortage reported with numbers."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

from gateway.process.descriptors import of_worker
from gateway.settings import Settings
from tests.lab.commands import run_process
from tests.process.test_supervisor import Serve, serve

__all__ = ["serve"]  # the fixture


def test_the_soft_limit_is_raised_and_a_shortage_told() -> None:
    """1,000 + 64 + 300 files fit into 1,500, 136 more too; with 137 one is missing, and the numbers say so."""
    done = run_process([sys.executable, "-m", "tests.process.raised_limit", "1000", "1136", "1137"])
    fits, just_fits, short = done.stdout.splitlines()
    assert fits == just_fits == "1500"
    assert short.startswith("1500: a worker may need 1501 open files, but the system allows only 1500; raise")


def test_every_server_that_is_named_counts(tmp_path: Path) -> None:
    """One by one, separated by commas, or in the file; the same one once."""
    file = tmp_path / "members"
    file.write_text("b:1\nc:1\n")
    alone = of_worker(Settings(kestrel=("a:1",)))
    assert of_worker(Settings(kestrel=("a:1,b:1", "dns:d:1"), kestrel_file=file)) == alone + 3 * (64 + 2000)


def test_documentation_has_the_number(root: Path) -> None:
    """docs/limits.md says how many files the defaults need."""
    text = " ".join((root / "docs" / "limits.md").read_text().split())
    assert f"{of_worker(Settings(kestrel=('a:1',))):,} with the" in text
    assert f"{of_worker(Settings()):,} with the" in text


def test_the_shortage_is_logged_at_the_start(serve: Callable[..., Serve]) -> None:
    """One warning; it starts all the same, and quietly where there is enough."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    one = serve("--max-connections", "1000000", "--max-leases", "1000").ready()
    if hard != resource.RLIM_INFINITY and hard < 1_000_364:
        assert one.text().count("WARNING supervisor: descriptors: ") >= 1
        assert f"a worker may need 1000364 open files, but the system allows only {hard}" in one.text()
    one.end()
    assert "descriptors" not in serve("--max-connections", "100", "--max-leases", "100").ready().text()
