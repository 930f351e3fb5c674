"""`python -m stability` as it is run: in a clone with and without tags, and against this project's own contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stability import changes

pytestmark = pytest.mark.slow  # an outside program

OLD, NEW = "operationId: getQueue", "operationId: readQueue"
ENTRY = """
[[change]]
rule = "api-operation-id-removed"
text = "`getQueue`"
operation = "GET /queues/{queue}"
reason = "Everything else says read."
"""
Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def oasdiff() -> None:
    """oasdiff is there; missing, the test is skipped at home and fails in CI."""
    try:
        changes.oasdiff()
    except changes.OasdiffMissingError as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Path:
    """A repository without tags, whose contract is the small one and its own baseline."""
    folder = tmp_path / "clone"
    shutil.copytree(root / "stability", folder / "stability")
    for target in (folder / "openapi.yaml", folder / "stability" / "baseline.yaml"):
        shutil.copy(Path(__file__).with_name("contract.yaml"), target)
    (folder / "stability" / "allowed.toml").write_text("")
    git(folder, "init", "-q")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "state")


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture
def run(clone: Path) -> Run:
    """Runs the command in the clone; gives its exit code and all it wrote."""

    def run(*arguments: str, **environment: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "stability", *arguments],
            cwd=clone,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_this_contract_breaks_no_client(root: Path) -> None:
    """openapi.yaml breaks nothing but what allowed.toml allows, and the baseline is the last tag's contract."""
    done = subprocess.run(
        [sys.executable, "-m", "stability"], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_tags_it_says_so_and_compares_with_the_file(clone: Path, run: Run) -> None:
    """A clone without tags has its baseline in a file; a breaking change is named and is a failure."""
    code, said = run()
    assert (code, said.splitlines()[0]) == (0, "baseline: stability/baseline.yaml (this clone has no version tag)")
    replace(clone / "openapi.yaml", OLD, NEW)
    code, said = run()
    assert code == 1
    assert "breaking: " in said
    assert "`getQueue`" in said


def test_a_change_is_allowed_with_its_reason(clone: Path, run: Run) -> None:
    """An entry lets its change pass; one without a reason is refused, and so is one that has nothing to allow."""
    replace(clone / "openapi.yaml", OLD, NEW)
    allowed = clone / "stability" / "allowed.toml"
    allowed.write_text(ENTRY)
    assert run() == (
        0,
        "baseline: stability/baseline.yaml (this clone has no version tag)\nno breaking change, 1 allowed\n",
    )

    allowed.write_text(ENTRY.replace("GET /queues/{queue}", "GET /livez"))
    code, said = run()
    assert code == 1
    assert "breaking: " in said
    assert "allows what has not changed" in said

    allowed.write_text(ENTRY.replace("Everything else says read.", " "))
    assert run()[0] == 2
    allowed.write_text(ENTRY.replace("reason", "why"))
    assert "rule, text and reason are needed" in run()[1]

    replace(clone / "openapi.yaml", NEW, OLD)
    allowed.write_text(ENTRY)
    code, said = run()
    assert (code, "allows what has not changed" in said) == (1, True)


def test_the_baseline_is_the_last_tag(clone: Path, run: Run) -> None:
    """With tags the file must be the contract of the last one: a change cannot be hidden by renewing the file."""
    git(clone, "tag", "v1.0.0")
    git(clone, "tag", "not-a-version")
    assert run()[1].splitlines()[0] == "baseline: v1.0.0"
    replace(clone / "openapi.yaml", OLD, NEW)
    assert run("--renew")[0] == 0
    code, said = run()
    assert (code, "is not the contract of v1.0.0" in said) == (1, True)


def test_a_release_renews_it(clone: Path, run: Run) -> None:
    """A new version becomes the baseline and clears the list; later changes are compared with it once it is tagged."""
    git(clone, "tag", "v1.0.0")
    replace(clone / "openapi.yaml", OLD, NEW)
    replace(clone / "openapi.yaml", "version: 1.0.0", "version: 2.0.0")
    (clone / "stability" / "allowed.toml").write_text(ENTRY)
    assert run()[0] == 0
    code, said = run("--renew")
    assert (code, said.splitlines()[-1]) == (0, "git tag -a v2.0.0 -m 'kestrel-gateway 2.0.0'")
    assert run() == (0, "baseline: v1.0.0\nno breaking change, 0 allowed\n")
    commit(clone)
    git(clone, "tag", "-a", "v2.0.0", "-m", "2.0.0")
    assert run() == (0, "baseline: v2.0.0\nno breaking change, 0 allowed\n")
    replace(clone / "openapi.yaml", NEW, OLD)
    assert run()[0] == 1


def test_without_oasdiff_it_says_what_to_do(run: Run, tmp_path: Path) -> None:
    """No oasdiff is no clean bill: exit code 2."""
    code, said = run(HOME=str(tmp_path), PATH="/nowhere", OASDIFF="")
    assert code == 2
    assert said.endswith("oasdiff is not installed: run .ci/install/oasdiff.sh, which needs Go\n")
