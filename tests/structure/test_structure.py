"""`python -m structure` counts a request's calls, and finds large classes, repeated names and calls passed on."""

import subprocess
import sys

import pytest

from structure import classes, passing, sources
from structure.__main__ import main

POOL = """
class Store(Protocol):
    def put(self, key, item): ...
    def close(self):
        '''Ends it.'''

class Pool:
    async def put(self, key, item):
        self.used += 1
        return await self.wire.put(key, item)
    def close(self): self.open = False

class Other:
    def put(self, key, item): return item(key)
"""
CLIENT = """
class Client:
    def __init__(self, store: Store | None, size: int) -> None:
        self._store = store
        self._near = self._make(size)
    def _make(self, size: int) -> Near:
        return Near(size)
    async def put(self, key, item):
        '''Stores it.'''
        return await self._store.put(key, item=item)
    def put_near(self, key, item):
        self._near.put(key, item)
    def put_first(self, key, item):
        self._near.put(item, key)
    def lookup(self, key):
        return lookup(key)

class Near:
    client: "Client"
    def put(self, key, item): return self.client.put(key, item)

class State: ...

def lookup(key): return len(key)
"""


@pytest.fixture
def tree(tmp_path):
    """A source tree of two modules and a broker."""
    for name, text in {
        "pool": POOL,
        "client": CLIENT,
        "broker/pool": "class Pool: ...",
        "states": "class State: ...\nclass Near: ...",
        "large": "class Large:\n" + "".join(f"  def f{at}(self): ...\n" for at in range(26)),
        "small": "class Small:\n" + "".join(f"  def f{at}(self): ...\n" for at in range(25)),
    }.items():
        path = tmp_path / "gateway" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_large_classes_and_repeated_names_are_found(tree):
    """26 methods are too many and 25 are not; the broker's names count, too."""
    found = classes.shapes(sources.modules(tree, "gateway"))
    assert [(each.name, each.methods) for each in classes.large(found)] == [("Large", 26)]
    assert classes.repeated(found) == {
        "Near": ["gateway/client.py", "gateway/states.py"],
        "Pool": ["gateway/broker/pool.py", "gateway/pool.py"],
        "State": ["gateway/client.py", "gateway/states.py"],
    }


def test_calls_that_are_passed_on_are_found_through_types(tree):
    """Through annotations, what a method makes and Protocols; arguments in another order are not passed on."""
    modules = list(sources.modules(tree, "gateway"))
    assert [each.name for each in passing.passing(modules)] == [
        "Client.put",
        "Client.put_near",
        "Client.lookup",
        "Near.put",
    ]
    names = [each.name for each in passing.longest_chain(modules)]
    assert names == ["Client.put_near", "Near.put", "Client.put", "Pool.put"]


@pytest.mark.slow
def test_it_prints_what_requests_call(root):
    """Each request is traced in a gateway that runs; the printed list has the calls that the figures count."""
    ran = subprocess.run(
        [sys.executable, "-m", "structure", "--list"], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    for name in ("enqueue", "next, job at hand", "ack", "next, empty"):
        calls, files, hops, entries = next(line for line in lines if line.startswith(f"{name:20}"))[20:].split()
        start = lines.index(f"{name}:") + 1
        listed = [line.split() for line in lines[start : start + int(calls)]]
        assert len({file for file, *_ in listed}) == int(files) > 10
        assert sum(line[2:3] == ["from"] and len(line) == 4 for line in listed) == int(hops) > 10
        assert sum(line[2:] == ["from", "the", "event", "loop"] for line in listed) == int(entries) > 0
        assert lines[start + int(calls)][:1] != " "


def test_another_root_needs_the_package(monkeypatch, capsys, tmp_path):
    """A folder that is no checkout is refused by name."""
    monkeypatch.setattr(sys, "argv", ["structure", "--root", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"--root: {tmp_path} has no package gateway; name the root of a checkout" in capsys.readouterr().err
