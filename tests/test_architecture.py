"""Every path and every name in ARCHITECTURE.md, CONTRIBUTING.md and docs/decisions exists."""

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOPS = {"gateway", "docs", "tests", "clients", "bench", "chaos", "fuzz", "stability", "structure", ".ci"}
QUOTED = re.compile(r"`([^`\n]+)`")
LINKED = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
DOTTED = re.compile(r"[a-z_]+(?:\.\w+)+")


def pages(root: Path) -> list[Path]:
    """The pages that name parts of the code."""
    return [root / "ARCHITECTURE.md", root / "CONTRIBUTING.md", *sorted((root / "docs" / "decisions").glob("*.md"))]


def is_path(token: str) -> bool:
    """Whether the token is a path of the repository."""
    return bool(re.fullmatch(r"[\w./-]+", token)) and (token.split("/", maxsplit=1)[0] in TOPS and "/" in token)


def is_file_at_root(token: str) -> bool:
    """Whether the token is a file at the root, such as `openapi.yaml`."""
    return bool(re.fullmatch(r"[\w-]+\.(?:md|yaml|yml|toml|lock)", token))


def is_name(token: str, root: Path) -> bool:
    """Whether the token is a dotted name relative to the package `gateway`."""
    first = token.split(".", maxsplit=1)[0]
    package = root / "gateway"
    return bool(DOTTED.fullmatch(token)) and ((package / first).is_dir() or (package / f"{first}.py").is_file())


def missing(text: str, page: Path, root: Path) -> Iterator[str]:
    """What the text names and does not exist."""
    for token in QUOTED.findall(text):
        if is_path(token) or is_file_at_root(token):
            if not (root / token).exists():
                yield token
        elif is_name(token, root):
            try:
                pkgutil.resolve_name("gateway." + token)
            except (ImportError, AttributeError):
                yield token
    for target in LINKED.findall(text):
        if not (page.parent / target).exists():
            yield target


def test_every_name_exists(root: Path) -> None:
    """A renamed module, class, function or file shows up here."""
    assert {page.name: list(missing(page.read_text(), page, root)) for page in pages(root)} == {
        page.name: [] for page in pages(root)
    }


def test_the_names_are_found(root: Path) -> None:
    """The check looks at names and paths: there are many in ARCHITECTURE.md."""
    tokens = QUOTED.findall((root / "ARCHITECTURE.md").read_text())
    assert sum(is_name(token, root) for token in tokens) > 40
    assert sum(is_path(token) for token in tokens) > 20


@pytest.mark.parametrize(
    "text",
    [
        "`gateway/api/routers.py`",
        "`gateway/nothing/`",
        "`openapi.yml`",
        "`api.routes.routers`",
        "`leases.registry.Registry.acknowledge`",
        "`settings.Settings.nothing`",
        "[decision](docs/decisions/none.md)",
    ],
)
def test_a_wrong_name_is_found(root: Path, text: str) -> None:
    """The check itself can fail, for every kind of name."""
    assert list(missing(text, root / "ARCHITECTURE.md", root))
