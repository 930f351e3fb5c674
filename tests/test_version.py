"""One version: of the package, the contract, the changelog, the manifests and what users read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.version import Version

from gateway import __version__
from tests.lab.yaml_text import parse_yaml

VERSION = Version(__version__)


def test_it_is_in_the_one_form_of_its_specification() -> None:
    """PEP 440; between two releases it is a development version of the next one, so pip never prefers it."""
    assert str(VERSION) == __version__
    assert VERSION.is_devrelease or not VERSION.is_prerelease


def test_the_changelog_begins_with_it(root: Path) -> None:
    """With `Unreleased` for a development version; the releases before it are older."""
    first, *others = re.findall(r"^## (\S+)", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first == ("Unreleased" if VERSION.is_devrelease else __version__)
    assert all(Version(other) < VERSION for other in others)


def test_the_contract_has_it(root: Path) -> None:
    """Without `dev`, and not the version of the last release, whose contract is the baseline."""
    contract = parse_yaml((root / "openapi.yaml").read_text())["info"]["version"]
    assert contract == VERSION.base_version
    baseline = parse_yaml((root / "stability" / "baseline.yaml").read_text())["info"]["version"]
    assert Version(baseline) <= Version(contract)


@pytest.mark.parametrize("folder", ["deploy/kubernetes", "docs"])
def test_images_have_it(root: Path, folder: str) -> None:
    """Each tag in the manifests and documents."""
    text = "".join(path.read_text() for pattern in ("*.yaml", "*.md") for path in (root / folder).rglob(pattern))
    tags = re.findall(r"kestrel-gateway:([0-9][\w.]*)|newTag: (\S+)", text)
    assert tags
    assert {one or other for one, other in tags} == {VERSION.base_version}
