"""The first release, from the repository's history."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.lab.gateway import ROOT

RELEASE = "2243f79eea023cf0e3e1596b328c7cb6590f6de1"
"""0.1.0. A clone without its tag has the commit."""


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its sources."""
    found = subprocess.run(
        ["git", "archive", "--format=tar", RELEASE, "gateway", "openapi.yaml"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if found.returncode:
        pytest.skip("this clone has no history, so there is no release to start")
    sources = tmp_path_factory.mktemp("released")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(sources, filter="tar")
    return sources
