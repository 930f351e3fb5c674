"""Imports point downwards only, and the broker and the rest never import each other."""

import ast
import functools
import re
from pathlib import Path

import pytest

from structure.sources import statements

IMPORT = re.compile(r"^[ \t]*((?:from [.\w]+ )?import (?:\([^)]*\)|[\w., ]+))", re.MULTILINE)
"""Where the linter allows it: on lines of its own. Only these are parsed: all the rest takes a second and a half."""

# A package may import those below it; modules of the same rank do not know each other.
RANKS: dict[str, int] = {
    "__main__": 12,
    "cli": 11,
    "maintenance": 10,
    "process": 9,
    "app": 8,
    "lifespan": 7,
    "reload": 7,
    "http": 6,
    "api": 6,
    "traces": 6,
    "delivery": 5,
    "forwarding": 4,
    "leases": 3,
    "kestrel": 3,
    "config": 2,
    "migration": 4,
    "work": 2,
    "client": 1,
    "envelope": 1,
    "names": 1,
    "problem": 1,
    "request": 1,
    "queue_stats": 1,
    "ui": 1,
    "coverage": 0,
    "errors": 0,
    "settings": 0,
    "nonce": 0,
    "files": 0,
    "fairness": 0,
    "broker": 0,
    "common": -1,
}
# Interfaces that their owner states and others implement or carry.
ALLOWED = {
    ("cli", "broker"),  # the command `broker`, imported when it runs
    ("broker", "common"),  # logs, channel, addresses: the same in every process
}


def part(module: str) -> str:
    """The layer of `gateway.api.handlers.jobs`: `api`."""
    return module.split(".")[1] if "." in module else ""


@functools.cache
def imports(path: Path, module: str) -> frozenset[str]:
    """Every module of the gateway that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.parse("\n".join(IMPORT.findall(path.read_text()))).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "gateway" else {base}
    return frozenset(name for name in found if name.startswith("gateway."))


def breaches(importer: str, imported: frozenset[str]) -> set[tuple[str, str]]:
    """The pairs of layers whose import points upwards or sideways."""
    source = part(importer)
    found = set()
    for target in map(part, imported):
        if target in {"__version__", source} or (source, target) in ALLOWED:
            continue
        if "broker" in {source, target} or RANKS[target] >= RANKS[source]:
            found.add((source, target))
    return found


def test_every_import_points_downwards(root: Path) -> None:
    """No file of the package imports from a layer above its own."""
    found = {}
    for path in sorted((root / "gateway").rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        if module != "gateway.__init__":
            found[str(path.relative_to(root))] = breaches(module, imports(path, module))
    assert len(found) > 150
    assert {path: pairs for path, pairs in found.items() if pairs} == {}


FORMS = """
import a, b as c  # why
if TYPE_CHECKING:
    from .near import (
        one,  # why
        two as three,
    )
def f():
    from gateway import x
"""


def test_every_form_of_import_is_found(root: Path) -> None:
    """As the parser finds it in the whole file: in conditions and functions, and over several lines."""
    for source in (FORMS, *(path.read_text() for path in sorted((root / "gateway").rglob("*.py"))[::40])):
        parsed = [each for each in statements(ast.parse(source)) if isinstance(each, ast.Import | ast.ImportFrom)]
        assert ast.unparse(ast.parse("\n".join(IMPORT.findall(source)))) == "\n".join(map(ast.unparse, parsed))


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("gateway.kestrel.server.pool", "from gateway.api.handlers.jobs import Jobs"),
        ("gateway.kestrel.server.pool", "def f():\n    import gateway.leases.ids"),
        ("gateway.broker.queue", "from gateway.errors import QueueFull"),
        ("gateway.common.net", "from gateway.broker.queues.queue import Queue"),
        ("gateway.common.net", "from gateway.errors import QueueFull"),
        ("gateway.app", "from gateway.broker import Broker"),
        ("gateway.names.namespace", "from ..kestrel import pool"),
        ("gateway.leases.ids", "from gateway import app"),
    ],
)
def test_breaches_are_found(tmp_path: Path, importer: str, source: str) -> None:
    """The check itself can fail, for every form of import."""
    path = tmp_path / "module.py"
    path.write_text(source)
    assert breaches(importer, imports(path, importer))


SERVERLESS = {"gateway.client", "gateway.work"}


def test_the_client_side_knows_nothing_of_the_server(root: Path) -> None:
    """The commands and the worker speak HTTP: they import each other and what is common to every process."""
    for package in SERVERLESS:
        for path in (root / package.replace(".", "/")).rglob("*.py"):
            found = {part(each) for each in imports(path, ".".join(path.relative_to(root).with_suffix("").parts))}
            assert found <= {"client", "work", "common", "__version__"}, path


BROKER_RANKS: dict[str, int] = {
    "__main__": 6,
    "server": 5,
    "memcache": 4,
    "multiplex": 4,
    "broker": 3,
    "queues": 2,
    "check": 2,
    "storage": 1,
    "connections": 1,
    "listening": 0,
    "client_log": 0,
    "counters": 0,
    "config": 0,
    "memory": 0,
}


def test_the_broker_has_layers_of_its_own(root: Path) -> None:
    """The disk knows no queue in memory, queues know no protocol, and what connections share knows no connection."""
    wrong = []
    for path in sorted((root / "gateway" / "broker").rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        own = module.split(".")[2]
        for each in imports(path, module) if own != "__init__" else ():
            target = [*each.split("."), ""][2] if each.startswith("gateway.broker.") else own
            if target != own and BROKER_RANKS[target] >= BROKER_RANKS[own]:
                wrong.append((module, each))
    assert wrong == []


BELOW_THE_LINK = ("gateway.kestrel.server", "gateway.kestrel.wire")
ABOVE_THE_LINK = ("polls/", "puts/", "broadcast.py")


def test_what_is_above_the_port_to_a_server_knows_no_protocol(root: Path) -> None:
    """Placement, polls and coverage import the link's Protocol, and no module that speaks to a server."""
    kestrel = root / "gateway" / "kestrel"
    files = [path for path in kestrel.rglob("*.py") if str(path.relative_to(kestrel)).startswith(ABOVE_THE_LINK)]
    assert len(files) > 6
    for path in files:
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        below = {each for each in imports(path, module) if each.startswith(BELOW_THE_LINK)}
        assert below == set(), f"{module} imports {below}"
        assert "pymemcache" not in path.read_text(), module
