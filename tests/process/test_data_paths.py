"""A data directory may have any name that the system allows: every command that gets one works with it."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import plain
from tests.lab.broker import BrokerProcess
from tests.lab.commands import Commands
from tests.lab.gateway import Running, running
from tests.lab.ports import free_port

NAME = os.fsdecode("a,b:c d%41'\"?mode=ro#;&$*[é\n".encode() + b"\xff")
"""What lists, URLs, shells, patterns and logs give a meaning to, and a byte that is not UTF-8."""


def command(*arguments: object) -> tuple[int, str, str]:
    """The exit code of a command, and what it writes. Its output begins strict, as in a locale other than C."""
    done = Commands("http://127.0.0.1:9")(*map(str, arguments), PYTHONIOENCODING="utf-8:strict")
    return done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr)


def put(gateway: Running, body: bytes) -> None:
    assert plain.post(gateway.url + "/queues/q/jobs", content=body).status_code == 201


def taken(gateway: Running) -> bytes:
    return plain.get(gateway.url + "/queues/q/next?ack=auto&format=raw&timeout=5").content


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory in which the path of a private socket is short enough: otherwise the sockets are elsewhere."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def test_a_gateway_with_its_backup_and_its_files(short: Path) -> None:
    """Jobs outlive a kill, `doctor` and `backup` read the directory, and the copy is served, exported and imported."""
    data, copy, file = short / NAME, short / f"copy {NAME}", short / f"file {NAME}"
    port = free_port()
    with running(data, "--workers", "2", "--log-format", "json") as gateway:
        assert not (data / "run").is_symlink()
        put(gateway, b"one")
        gateway.kill()
        gateway.start()
        assert taken(gateway) == b"one"
        put(gateway, b"two")
        code, report, errors = command("doctor", "--data", data, "--port", gateway.port)
        assert (code, errors) == (0, ""), report + errors
        code, said, errors = command("backup", copy, "--data", data)
        assert (code, errors) == (0, ""), said + errors
        assert shlex.split(said.partition("start the copy with: ")[2])[-1] == str(copy)
        assert "Traceback" not in gateway.log.read_text(errors="replace")
    with running(copy) as gateway:
        code, _, errors = command("export", "q", file, "--url", gateway.url)
        assert code == 0, errors
        assert file.read_bytes().count(b"\n") == 1
        code, _, errors = command("import", "q", file, "--url", gateway.url)
        assert code == 0, errors
        assert taken(gateway) == b"two"
        assert gateway.stop() == 0
    assert command("doctor", "--data", data, "--port", port)[0] == 0


def test_a_broker(tmp_path: Path) -> None:
    """Its items outlive a kill, and `check` and `compact` work on the directory."""
    data = tmp_path / NAME
    with BrokerProcess(data) as broker:
        assert broker.client().put("q", b"item").startswith(b"STORED")
        broker.process.kill()
        broker.process.wait()
        broker.start()
        assert broker.client().get("q") == b"item"
    for name in ("check", "compact"):
        code, _, errors = command("broker", name, data)
        assert (code, errors) == (0, "")
