"""Forked processes share the test files: each test runs once, and what it does is told as in one process."""

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

RECORD = """
import os, pytest
from pathlib import Path
def note(name):
    with Path(__file__).with_name("ran").open("a") as file:
        file.write(f"{name} {os.getpid()}\\n")
"""
GOOD = """
@pytest.fixture(scope="module", autouse=True)
def of_the_file():
    yield
    note(__name__ + " ends")
@pytest.mark.parametrize("number", range(3))
def test_it(number, tmp_path):
    note(f"{__name__} {number}")
"""
ALONE = """
@pytest.mark.alone
def test_it():
    note("alone")
"""
BAD = """
def test_fails():
    print("what it said")
    assert 1 == 2
def test_dies():
    os.kill(os.getpid(), 9)
def test_never():
    note("never")
"""

LIMIT_S = 300
"""A run ends by itself within seconds; one that hangs is killed."""

Run = Callable[..., tuple[int, str, list[list[str]]]]


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Run:
    """Runs files: the exit code, the output, and what was noted, each with the process that noted it."""

    def run(files: dict[str, str], *arguments: str) -> tuple[int, str, list[list[str]]]:
        for name, text in files.items():
            (tmp_path / f"test_{name}.py").write_text(RECORD + text)
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\naddopts = --import-mode=importlib\n")
        options = ["-p", "tests.parallel", "--workers=3", f"--rootdir={tmp_path}", "-c", str(tmp_path / "pytest.ini")]
        output, noted = tmp_path / "output", tmp_path / "ran"
        code = forked_pytest([*options, *arguments, str(tmp_path)], root, output)
        lines = noted.read_text().splitlines() if noted.exists() else []
        return code, output.read_text(), [line.rsplit(" ", 1) for line in lines]

    return run


def forked_pytest(arguments: list[str], folder: Path, output: Path) -> int:
    """Runs pytest in a fork of this process, which has imported it: the exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = -1
    try:
        signal.alarm(LIMIT_S)
        warnings.resetwarnings()  # here they are errors, also what the fork leaves of its parent
        os.chdir(folder)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = pytest.main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


def test_each_file_is_run_by_one_process_and_the_lonely_ones_last(run: Run) -> None:
    """In its order, and the fixtures of the file end in the same process; no process works beside `alone`."""
    code, output, noted = run({f"f{number}": GOOD for number in range(4)} | {"a": ALONE})
    assert (code, re.findall(r"\d+ passed", output)) == (0, ["13 passed"])
    assert noted[-1][0] == "alone"
    for number in range(4):
        of_file = [each for each in noted if each[0].startswith(f"test_f{number} ")]
        assert [what for what, _ in of_file] == [f"test_f{number} {each}" for each in (*range(3), "ends")]
        assert len({pid for _, pid in of_file}) == 1
    assert len(noted) == 4 * 4 + 1
    assert 1 < len({pid for _, pid in noted}) <= 4


def test_failures_are_told_and_so_is_a_worker_that_dies(run: Run) -> None:
    """A failure with its output; the test in which a worker ends fails; the other workers go on."""
    code, output, noted = run({"bad": BAD, "good": GOOD})
    assert code == 1
    assert "what it said" in output
    assert "the worker ended with -9; the rest of the file did not run" in output
    assert re.findall(r"\d+ \w+(?=[, ])", output.splitlines()[-1]) == ["2 failed", "3 passed"]
    assert len(noted) == 4
    assert "never" not in {what for what, _ in noted}


def test_it_stops_after_the_first_failure(run: Run) -> None:
    """With -x no further test is begun: here the other file comes after the one that fails."""
    code, output, noted = run({"bad": "def test_fails(): assert 0", "good": GOOD}, "-x", "--workers=1")
    assert (code, noted) == (1, [])
    assert "stopping after 1 failures" in output
