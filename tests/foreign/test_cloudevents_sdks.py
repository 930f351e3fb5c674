"""The CloudEvents SDKs, unmodified, as senders and as consumers: each of their modes in and out of a queue.

The programs in cloudevents/ do the work and print one line a sender, receiver and kind of data.
`.ci/install/cloudevents.sh` brings the SDKs.
"""

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "cloudevents"
SDKS = Path.home() / ".cache" / "kestrel-gateway" / "cloudevents"
MODES = ("binary", "structured")
PROGRAMS = {
    "python-1": ([str(SDKS / "python-1/bin/python"), str(HERE / "python/v1.py")], MODES),
    "python-2": ([str(SDKS / "python-2/bin/python"), str(HERE / "python/v2.py")], MODES),
    "javascript": (
        ["node", str(HERE / "javascript/client.js")],
        (*MODES, "binary-axios", "structured-axios", "batch"),
    ),
    "go": ([str(SDKS / "go-client")], (*MODES, "request", "batch")),
    "java": (
        ["java", "-cp", f"{SDKS}/java/*", str(HERE / "java/Client.java")],
        (*MODES, "binary-http", "structured-http"),
    ),
}
NEEDED = {"javascript": SDKS / "javascript/node_modules/cloudevents", "java": SDKS / "java"}
KINDS = 3


@pytest.mark.slow
@pytest.mark.parametrize("sdk", PROGRAMS)
def test_every_mode_of_the_sdk_works_in_and_out(gateway, queue, sdk):
    """What it sends is what it receives: attributes, type and data, as JSON, text and bytes."""
    command, senders = PROGRAMS[sdk]
    if shutil.which(command[0]) is None or not NEEDED.get(sdk, HERE).exists():
        if "CI" in os.environ:
            pytest.fail(f"the SDK is missing: {sdk}")
        pytest.skip(f"no CloudEvents SDK for {sdk}: .ci/install/cloudevents.sh brings it")
    ran = subprocess.run(
        [*command, f"{gateway.url}/queues/{queue}"],
        env=os.environ | {"NODE_PATH": str(SDKS / "javascript/node_modules")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    done = [tuple(line.split()[:2]) for line in ran.stdout.splitlines()]
    assert sorted(done) == sorted([*itertools.product(senders, MODES)] * KINDS)
    with gateway.client() as http:
        assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204
