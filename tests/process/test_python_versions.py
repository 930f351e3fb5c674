"""Every supported Python: the built package installs, starts, serves the main job, and passes the contract tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.lab.gateway import Running

CACHE = Path.home() / ".cache" / "kestrel-gateway"
UV = Path(sys.executable).with_name("uv")
NEWER = ["3.12", "3.13", "3.14"]
"""Beside the one that runs the tests, which is the oldest."""


class Installed(Running):
    """A gateway of the package that another Python's environment has."""

    start_s = 60.0  # it runs for the first time

    def __init__(self, data: Path, python: Path) -> None:
        self.python = str(python)
        self.folder = data.parent
        super().__init__(data)


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built from a copy of the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    shutil.copytree(root / "gateway", copy / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([UV, "build", "--quiet", "--wheel", copy], check=True, timeout=120)
    return next((copy / "dist").glob("*.whl"))


def interpreter(version: str) -> str:
    """The Python of that version on this machine."""
    candidates = [shutil.which(f"python{version}"), CACHE / f"python-{version}" / "bin" / f"python{version}"]
    candidates += sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for each in candidates:
        if each and Path(each).exists() and subprocess.run([each, "--version"], capture_output=True).returncode == 0:
            return str(each)
    reason = f"there is no Python {version} on this machine (.ci/install/python.sh installs 3.14 where there is Go)"
    if version == "3.14" and os.environ.get("CI") and shutil.which("go"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.parametrize("version", NEWER)
def test_the_package_works(version: str, wheel: Path, root: Path, tmp_path: Path) -> None:
    """Installed in an environment of its own: a job goes through every settlement, and the contract tests pass."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", "--python", interpreter(version), tmp_path / "venv"], check=True, timeout=60)
    install: list[str | Path] = [UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    subprocess.run([*install, "--require-hashes", "-r", "requirements.lock"], cwd=root, check=True, timeout=240)
    subprocess.run([*install, "--no-deps", wheel], check=True, timeout=60)
    tests = ["-c", "requirements-dev.lock", "pytest", "hypothesis", "httpx"]
    subprocess.run([*install, *tests], cwd=root, check=True, timeout=240)
    gateway = Installed(tmp_path / "data", python)
    try:
        with gateway.client() as http:
            job = {"to": "ada@example.org", "n": 1.10}
            assert http.post("/queues/q/jobs", json=job).status_code == 201
            for settlements in ([("extend", {"lease": 30}), ("nack", None)], [("reject", None)]):
                delivery = http.get("/queues/q/next?timeout=5").json()
                assert delivery["data"] == job
                for settlement, body in settlements:
                    assert http.post(f"{delivery['lease']['url']}/{settlement}", json=body).status_code in (200, 204)
            assert http.post("/queues/q/redrive").status_code == 200
            delivery = http.get("/queues/q/next?timeout=5").json()
            assert http.post(f"{delivery['lease']['url']}/ack").status_code == 204
            assert http.get("/queues/q/next?timeout=0.1").status_code == 204
            assert f'python="{version}' in http.get("/metrics").text
        assert gateway.stop() == 0
    finally:
        gateway.kill()
    assert "Traceback" not in gateway.log.read_text()
    timed = "tests/contract/test_json_text.py::test_a_large_text_is_scanned_and_not_built"
    run = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/contract", "--deselect", timed]
    done = subprocess.run([python, *run], cwd=root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout


def test_the_package_names_what_is_tested(root: Path) -> None:
    """The versions that the package says it supports are the one that runs the tests, and the newer ones here."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    named = [each.rpartition(" ")[2] for each in project["classifiers"] if each.startswith("Programming Language")]
    assert named == ["3.11", *NEWER]
    assert project["requires-python"] == ">=3.11"
