"""Installed packages are locked with hashes and are what pyproject.toml requires; the SBOM lists all of them."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ("requirements.lock", "requirements-dev.lock")
UNUSED = {"websockets", "watchfiles", "python-dotenv", "wsproto"}
"""What `uvicorn[standard]` would bring."""


def pins(root: Path, name: str) -> dict[str, Requirement]:
    """The requirements of a lock file; each has hashes."""
    found = {}
    text = re.sub(r"^ *#.*\n", "", (root / name).read_text(), flags=re.MULTILINE)
    for entry in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = entry.split(" --hash=sha256:")
        assert hashes, entry
        assert all(re.fullmatch(r"[0-9a-f]{64} *", each) for each in hashes), entry
        pin = Requirement(requirement)
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), entry
        found[str(canonicalize_name(pin.name))] = pin
    return found


def wanted(root: Path, *extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with these extras."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    asked = [*project["dependencies"], *(each for extra in extras for each in optional[extra])]
    return [each for each in map(Requirement, asked) if each.name != "kestrel-gateway"]


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.lock", ("build", "otel", "zookeeper")),
        ("requirements-dev.lock", ("build", "otel", "zookeeper", "dev")),
    ],
)
def test_every_requirement_is_locked(root: Path, name: str, extras: tuple[str, ...]) -> None:
    """Each has a version that pyproject.toml allows; if not: make lock."""
    locked = pins(root, name)
    for each in wanted(root, *extras):
        pin = locked.get(canonicalize_name(each.name))
        assert pin is not None, f"{each.name} is not in {name}: make lock"
        version = str(pin.specifier).removeprefix("==")
        assert each.specifier.contains(version, prereleases=True), f"{name}: {pin} is not {each}: make lock"


def test_the_image_has_what_the_tests_have(root: Path) -> None:
    """The versions of the two files are the same, and neither names where packages come from."""
    image, development = (pins(root, name) for name in LOCKS)
    assert {name: str(pin.specifier) for name, pin in image.items()} == {
        name: str(development[name].specifier) for name in image
    }
    assert not UNUSED & set(image)
    assert not any(re.search(r"://|index-url|find-links", (root / name).read_text()) for name in LOCKS)
    dockerfile = (root / "Dockerfile").read_text()
    assert "--require-hashes -r requirements.lock" in dockerfile
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2
    assert "!requirements.lock" in (root / ".dockerignore").read_text().splitlines()


@pytest.mark.slow  # asks the registry of packages
def test_the_sbom_tells_what_is_installed(root: Path, tmp_path: Path) -> None:
    """`make sbom` installs what is locked and lists just that, with the gateway itself at the root."""
    subprocess.run(
        ["make", "sbom", f"SBOM={tmp_path / 'sbom.json'}"], cwd=root, check=True, capture_output=True, timeout=120
    )
    document = json.loads((tmp_path / "sbom.json").read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "kestrel-gateway"
    listed = {str(canonicalize_name(each["name"])): each["version"] for each in document["components"]}
    environment = {name: str(value) for name, value in default_environment().items()}
    locked = {
        name: str(pin.specifier).removeprefix("==")
        for name, pin in pins(root, "requirements.lock").items()
        if pin.marker is None or pin.marker.evaluate(environment)
    }
    del locked["setuptools"]
    listed.pop("kestrel-gateway", None)
    assert listed == locked
    assert not (tmp_path / "sbom.json.venv").exists()
