"""The packages are complete and valid, and the README's lines install them into an empty environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.lab.ports import free_port

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.slow  # asks the registry of packages


def tracked(root: Path) -> list[str]:
    """The files of the repository, with those that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True, text=True,
    ).stdout.split("\n")  # fmt: skip
    return [name for name in listed if name and (root / name).is_file()]


@pytest.fixture(scope="module")
def dist(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both packages, built from a copy of the repository as `make release` does it."""
    copy = tmp_path_factory.mktemp("sources")
    for name in tracked(root):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy / name, follow_symlinks=False)
    build: list[str | Path] = [BIN / "python", "-m", "build", "--no-isolation", "--outdir", copy / "dist", copy]
    subprocess.run(build, check=True, capture_output=True, timeout=240)
    return copy / "dist"


def test_the_packages_are_complete_and_valid(root: Path, dist: Path) -> None:
    """The wheel has every file of gateway/ and nothing else; the index would accept both."""
    subprocess.run([BIN / "twine", "check", "--strict", *dist.iterdir()], check=True, timeout=60)
    (wheel,) = dist.glob("*.whl")
    (archive,) = dist.glob("*.tar.gz")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {name for name in tracked(root) if name.startswith("gateway/")}
    with tarfile.open(archive) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    with zipfile.ZipFile(wheel) as content:
        assert content.read("gateway/api/openapi.yaml") == (root / "openapi.yaml").read_bytes()


def test_the_links_of_the_readme_work_on_the_index(root: Path, dist: Path) -> None:
    """The index shows the README alone: a relative link leads nowhere there."""
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        (name,) = [name for name in content.namelist() if name.endswith("METADATA")]
        text = content.read(name).decode()
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    assert len(targets) > 20
    used = {found[1] or found[0] for found in re.findall(r"\[([^\]\[]+)\](?:\[([^\]]+)\])?(?![(:])", text)}
    assert {name for name in used if "/" in name and name.endswith(".md")} <= set(
        re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE)
    )
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    for target in targets:
        _, found, path = target.partition("/blob/main/")
        if found:
            assert (root / path.partition("#")[0]).exists(), target


def test_the_readme_installs_it(root: Path, dist: Path, tmp_path: Path) -> None:
    """Its lines, in an empty directory with an empty environment: from the wheel to the first job."""
    section = (root / "README.md").read_text().split("## Install")[1].split("\n## ")[0]
    lines = re.findall(r"^    (.+)$", section, re.MULTILINE)
    install = [line for line in lines if "pip install" in line]
    (serve,) = [line for line in lines if line.startswith("kestrel-gateway serve")]
    assert len(install) == 1
    python = tmp_path / "venv" / "bin"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    environment = {**os.environ, "PATH": f"{python}:{os.environ['PATH']}", "PIP_FIND_LINKS": str(dist)}
    subprocess.run(["bash", "-ec", install[0]], cwd=tmp_path, env=environment, check=True, timeout=300)
    port = free_port()
    process = subprocess.Popen(
        ["bash", "-ec", f"exec {serve.partition('#')[0]}"],
        cwd=tmp_path,
        env=environment | {"KESTREL_GATEWAY_PORT": str(port)},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            assert any(f"ready: http://127.0.0.1:{port}" in line for line in iter(process.stderr.readline, ""))
            steps = "kestrel-gateway put emails hello; kestrel-gateway next emails --ack --raw"
            done = subprocess.run(
                ["bash", "-ec", steps], capture_output=True, text=True,
                cwd=tmp_path, timeout=60, check=True, env=environment | {"KESTREL_GATEWAY_URL": f"http://127.0.0.1:{port}"},
            )  # fmt: skip
            assert done.stdout.endswith("hello")
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
