"""Compacting gives disk space back and changes no job. Real files."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from gateway.broker.__main__ import run
from tests.broker.damaging import execute, fill, serve
from tests.lab.broker import BrokerProcess

LARGE = 40
ITEM = b"x" * 100_000


def compact(data: Path) -> str:
    """What `broker compact` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run(["compact", str(data)], "kestrel-gateway broker")
    return printed.getvalue()


def test_the_space_of_a_removed_backlog_is_given_back(tmp_path: Path) -> None:
    """4 MB of jobs are removed, and others stay, in order."""
    data = tmp_path / "data"
    kept = [b"%d" % number for number in range(50)]
    fill(data, {"backlog": [ITEM] * LARGE, "kept": kept})
    with BrokerProcess(data) as broker, contextlib.closing(broker.client()) as client:
        client.send(b"flush backlog\r\n")
        assert client.line() == b"END\r\n"
        assert broker.stop() == 0
    before = (data / "broker.sqlite").stat().st_size
    assert before > LARGE * len(ITEM), "the file keeps the space for new jobs"
    said = compact(data)
    after = (data / "broker.sqlite").stat().st_size
    assert after < before / 10
    assert said == f"{data / 'broker.sqlite'}: {before:,} bytes before, {after:,} bytes now\n"
    found = serve(data, ["kept", "backlog"])
    assert found.errors == []
    assert found.delivered == {"kept": kept, "backlog": []}


def test_a_directory_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 1."""
    with BrokerProcess(tmp_path / "data"), pytest.raises(SystemExit) as ended:
        compact(tmp_path / "data")
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f"kestrel-gateway broker compact: {tmp_path / 'data'}: in use by a broker; stop it first\n"
    )


def test_damage_stays_damage(tmp_path: Path) -> None:
    """A damaged job is kept as it is, so that `check` finds it."""
    data = tmp_path / "data"
    fill(data, {"emails": [b"a", b"b"]})
    execute(data, "UPDATE items SET expires_ms = 1 WHERE data = CAST('a' AS BLOB)")
    compact(data)
    found = serve(data, ["emails"])
    assert found.delivered == {"emails": [b"b"]}
    assert len(found.errors) == 1
