"""Dockerfile and docker-compose.yml name what the commands take: both roles start with just those variables."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from tests.lab import plain
from tests.lab.forkserver import ForkedProcess
from tests.lab.lifeline import lifeline, tied
from tests.lab.ports import free_port
from tests.lab.processes import START_S
from tests.lab.waiting import until
from tests.lab.yaml_text import parse_yaml


def image_variables(root: Path) -> dict[str, str]:
    """The ENV of the image, but for its PATH."""
    text = (root / "Dockerfile").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    return {name: value for name, value in re.findall(r"(\w+)=(\S+)", line) if name != "PATH"}


def services(root: Path) -> dict[str, Any]:
    """The services of the compose file."""
    found: dict[str, Any] = parse_yaml((root / "docker-compose.yml").read_text())["services"]
    return found


def start(variables: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """The image's entry point, without arguments."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KESTREL_GATEWAY_")}
    with log.open("wb") as output:
        return ForkedProcess(tied("gateway"), stdin=lifeline(), stdout=output, stderr=output, env=clean | variables)


def test_both_roles_start_with_the_variables_of_the_image(root: Path, tmp_path: Path) -> None:
    """The broker of the compose file, then its gateway on it; only ports and directories are the test's own."""
    image = image_variables(root)
    compose = services(root)
    role = image | compose["kestrel"]["environment"]
    assert role["KESTREL_GATEWAY_BROKER_LISTEN"] == "0.0.0.0:22133"
    role |= {"KESTREL_GATEWAY_BROKER_LISTEN": "0.0.0.0:0", "KESTREL_GATEWAY_BROKER_DATA": str(tmp_path / "broker")}
    log = tmp_path / "broker.log"
    broker = start(role, log)
    port, deadline = free_port(), time.monotonic() + 60
    try:
        while (found := re.search(r"listening on 0\.0\.0\.0:(\d+)", log.read_text())) is None:
            assert broker.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        role = image | compose["gateway"]["environment"]
        assert role["KESTREL_GATEWAY_KESTREL"] == "kestrel:22133"
        role |= {"KESTREL_GATEWAY_KESTREL": f"127.0.0.1:{found[1]}", "KESTREL_GATEWAY_DATA": str(tmp_path / "gateway")}
        gateway = start(role | {"KESTREL_GATEWAY_PORT": str(port)}, tmp_path / "gateway.log")
        try:
            until_ready(f"http://127.0.0.1:{port}", gateway, tmp_path / "gateway.log")
            job = plain.post(f"http://127.0.0.1:{port}/queues/q/jobs", content=b"x", timeout=30)
            assert job.status_code == 201
        finally:
            gateway.terminate()
            assert gateway.wait(60) == 0
    finally:
        broker.terminate()
        assert broker.wait(60) == 0


def until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits for /readyz."""

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return plain.get(f"{url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    until(is_ready, log.read_text, within_s=START_S)


def test_nothing_unauthenticated_is_published_beyond_loopback(root: Path) -> None:
    """Published ports name 127.0.0.1, and the broker publishes none."""
    compose = services(root)
    assert "ports" not in compose["kestrel"]
    assert all(port.startswith("127.0.0.1:") for port in compose["gateway"]["ports"])
