"""openapi.yaml against a live gateway: whatever schemathesis thinks of, the answer is one that is documented."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.gateway import running

SHORT_WAITS = ("--max-timeout", "0.2", "--default-timeout", "0.05", "--max-stream", "0.2")
"""The contract that is served names these limits, so the generated waits and streams keep to them."""


IN_CI = ("--max-examples", "2", "--phases", "examples,fuzzing,stateful")
QUICK = ("--max-examples", "1", "--phases", "examples", "--generation-database", "none")
"""On a developer's machine: each example of the contract, and with QUICK_SETTINGS a request for each operation without
one. One example of the stateful phase follows no link, so it shows nothing more."""
SHORT = IN_CI if os.environ.get("CI") else QUICK
LONG = ("--max-examples", "60")


SETTINGS = """
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]
"""
"""The usual statuses, and 413: a body of ten thousand wrong leases may be larger than a body may be."""

QUICK_SETTINGS = """
[phases.examples]
fill-missing = true
"""


@pytest.mark.parametrize("extent", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)], ids=["short", "long"])
def test_schemathesis_finds_nothing(tmp_path, root, extent):
    """Every check, generated and stateful, positive and negative, on a live port."""
    (tmp_path / "schemathesis.toml").write_text(SETTINGS + (QUICK_SETTINGS if extent is QUICK else ""))
    variables = {
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    if extent is QUICK:  # the tables of Unicode there take 3 s to make
        variables["HYPOTHESIS_STORAGE_DIRECTORY"] = str(root / ".hypothesis")
    with running(tmp_path / "data", *SHORT_WAITS) as gateway:
        found = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                *("run", gateway.url + "/openapi.yaml", "--checks", "all", *extent),
                *("--seed", "7", "--warnings", "off", "--continue-on-failure", "--output-sanitize", "false"),
            ],
            cwd=tmp_path,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=500,
        )
    assert found.returncode == 0, found.stdout[-20000:] + found.stderr
