"""The targets of fuzz/: their seeds, what was found once, and some seconds of the fuzzer itself."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.__main__ import HERE, TARGETS

SECONDS = 25


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_what_was_found_once(target):
    """Whole, and cut short anywhere."""
    module = importlib.import_module(f"fuzz.{target}")
    found = [path.read_bytes() for path in sorted((HERE / "seeds" / target).glob("*"))]
    for seed in [*module.SEEDS, *found]:
        module.one(seed)
        for end in range(0, len(seed), max(1, len(seed) // 8)):
            module.one(seed[:end])


@pytest.mark.slow
def test_some_seconds_of_fuzzing_find_nothing(tmp_path):
    """The short form of `make fuzz`."""
    if "CI" not in os.environ:
        pytest.importorskip("atheris", reason="atheris, the fuzzer, is not installed")
    command = [sys.executable, "-m", "fuzz", "--seconds", str(SECONDS), "--corpus", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=SECONDS + 300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("clean") == len(TARGETS)
