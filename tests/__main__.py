"""`python -m tests [--all] [ARGUMENT...]`: runs the tests, as `make test` and `make test-all` do. ARGUMENT is pytest's.

First all tests run that share the machine, in WORKERS processes; then those marked `alone`, one at a time. Without
--all, tests marked `slow` are left out, and the first run lists them at its end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKERS = "4"
NO_TESTS = 5
"""pytest's exit code when it selects no test: one of the two runs may."""


def main(arguments: list[str]) -> int:
    with_slow = "--all" in arguments
    arguments = [each for each in arguments if each != "--all"]
    chosen = "" if with_slow else " and not slow"
    # Sockets are below this folder, and a socket's path holds about 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="kg", dir="/tmp"))
    together = ["-n", WORKERS, "--dist", "loadfile", "--no-loadscope-reorder", "-m", f"not alone{chosen}"]
    codes = [
        _run(folder / "t", [*together, *arguments]),
        _run(folder / "a", ["-m", f"alone{chosen}", *arguments, *_with_alone(arguments), "-n", "0"]),
    ]
    failed = [code for code in codes if code not in {0, NO_TESTS}]
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
        return min(codes)
    return failed[0]


def _with_alone(arguments: list[str]) -> list[str]:
    """The files that have tests marked `alone`, unless files are named: it takes seconds to read all of them."""
    if any((ROOT / each.partition("::")[0]).exists() for each in arguments):
        return []
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(each.relative_to(ROOT)) for each in files if "mark.alone" in each.read_text()]


def _run(folder: Path, arguments: list[str]) -> int:
    # Modules that are compiled once are not compiled again by each of the many processes that tests start.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "pytest", "-p", "no:schemathesis", f"--basetemp={folder}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
