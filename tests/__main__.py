"""`python -m tests [--all] [-n WORKERS] [ARGUMENT...]`: runs the tests, as `make test` and `make test-all` do.

ARGUMENT is pytest's. Without --all, tests marked `slow` are left out and listed at the end. WORKERS processes run the
tests that share the machine, then one runs those marked `alone` (tests/parallel.py). With -n 0 all run in one process,
as a debugger needs it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 8
"""Four times the cores of a small machine: most tests wait for other processes."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests", allow_abbrev=False)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("-n", type=int, default=WORKERS)
    options, given = parser.parse_known_args(arguments)
    chosen = [] if options.all else ["-m", "not slow"]
    # Sockets are below this folder, and a socket's path holds about 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="kg", dir="/tmp"))
    plugins = ["-p", "tests.parallel", "-p", "no:xdist", "-p", "no:schemathesis"]
    # Modules that are compiled once are not compiled again by each of the many processes that tests start.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    code = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *plugins,
            f"--basetemp={folder / 't'}",
            f"--workers={options.n}",
            *chosen,
            *given,
        ],
        cwd=ROOT,
        env=environment,
        check=False,
    ).returncode
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
