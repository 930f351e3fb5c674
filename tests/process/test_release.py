"""`make release` in a clone: what it checks, builds and prints. It publishes nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.test_package import tracked

pytestmark = pytest.mark.slow  # builds the packages

VERSION = "99.1.2"


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture(scope="module")
def origin(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the files of this one, of a version that is ready to be released."""
    folder = tmp_path_factory.mktemp("release") / "origin"
    for name in tracked(root):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name, follow_symlinks=False)
    package = folder / "gateway" / "__init__.py"
    package.write_text(re.sub('__version__ = ".*"', f'__version__ = "{VERSION}"', package.read_text()))
    change(folder / "CHANGELOG.md", "\n## ", f"\n## {VERSION} - 2099-01-01\n\n### Added\n\n- All.\n\n## ")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "ready")
    git(folder, "tag", "v0.1.0")
    return folder


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "-q", str(origin), "clone")
    return tmp_path / "clone"


def release(clone: Path) -> subprocess.CompletedProcess[str]:
    """Runs it with the installed packages of these tests, which it does not install again."""
    installed = Path(sys.prefix)
    command = ["make", "--no-print-directory", "release", f"VENV={installed}", "-o", f"{installed}/.installed"]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False, timeout=300)


def test_it_builds_both_packages_and_prints_what_is_left(origin: Path, clone: Path) -> None:
    """Nothing old is among the packages; nothing is tagged, pushed or uploaded, and the clone stays as it is."""
    before = git(origin, "show-ref"), git(clone, "show-ref")
    (clone / "dist").mkdir()
    (clone / "dist" / "kestrel_gateway-0.0.1-py3-none-any.whl").write_text("old")
    done = release(clone)
    assert done.returncode == 0, done.stderr
    built = sorted(path.name for path in (clone / "dist").iterdir())
    assert built == [f"kestrel_gateway-{VERSION}-py3-none-any.whl", f"kestrel_gateway-{VERSION}.tar.gz"]
    assert done.stdout.count("PASSED") == 2, "twine has checked both"
    _, printed = done.stdout.split(f"To publish {VERSION}, when .ci/run has passed on this commit:\n")
    steps = [line.strip() for line in printed.splitlines()]
    assert steps[0] == f"git tag -a v{VERSION} -m 'kestrel-gateway {VERSION}' && git push origin v{VERSION}"
    assert re.fullmatch(r"\S+/twine upload dist/\*", steps[1])
    assert steps[2].startswith(f"docker build --build-arg VERSION={VERSION} --tag kestrel-gateway:{VERSION} . && ")
    assert len(steps) == 3
    assert (git(origin, "show-ref"), git(clone, "show-ref")) == before
    assert git(clone, "status", "--porcelain") == ""


def committed(change_it: Callable[[Path], None]) -> Callable[[Path], None]:
    """The change, in a commit."""

    def act(clone: Path) -> None:
        change_it(clone)
        git(clone, "commit", "-q", "-a", "-m", "changed")

    return act


def changed_file(clone: Path) -> None:
    change(clone / "README.md", "kestrel", "Kestrel")


def new_file(clone: Path) -> None:
    (clone / "gateway" / "notes.py").write_text("")


def staged_file(clone: Path) -> None:
    new_file(clone)
    git(clone, "add", "gateway/notes.py")


def tagged_version(clone: Path) -> None:
    git(clone, "tag", f"v{VERSION}")


@committed
def no_section(clone: Path) -> None:
    change(clone / "CHANGELOG.md", f"## {VERSION} - 2099-01-01", "## Unreleased")


@committed
def empty_section(clone: Path) -> None:
    change(clone / "CHANGELOG.md", "- All.\n", "")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (changed_file, "commit all changes first:\n M README.md\n"),
        (new_file, "commit all changes first:\n?? gateway/notes.py\n"),
        (staged_file, "commit all changes first:\nA  gateway/notes.py\n"),
        (tagged_version, f"the tag v{VERSION} exists already: set the next version"),
        (no_section, f"CHANGELOG.md has no section '## {VERSION} - DATE'"),
        (empty_section, f"CHANGELOG.md says nothing of {VERSION}: "),
    ],
)
def test_it_refuses_what_is_not_ready(clone: Path, spoil: Callable[[Path], None], why: str) -> None:
    """It says why before it builds anything."""
    spoil(clone)
    done = release(clone)
    assert (done.returncode != 0, done.stderr.startswith(why)) == (True, True), done.stderr
    assert not (clone / "dist").exists()
