"""A data directory that this version cannot use: `serve`, `doctor` and `backup` each say so at once, in one line."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import plain
from tests.lab.commands import COMMAND, Commands, run_process
from tests.lab.gateway import running
from tests.lab.ports import free_port
from tests.maintenance import without_rights as without_rights_module

NEWER = {"broker.sqlite": (4, 3), "idempotency.db": (7, 1)}
"""A format that this version does not know, and the newest that it does, by the file."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a gateway that has stopped, with a job and an idempotency key."""
    with running(tmp_path_factory.mktemp("unusable") / "data") as gateway:
        answer = plain.post(gateway.url + "/queues/q/jobs", content=b"1", headers={"Idempotency-Key": "k"})
        assert answer.status_code == 201
        assert gateway.stop() == 0
    return gateway.data


def copied(whole: Path, tmp_path: Path) -> Path:
    """The files of the directory, without the sockets."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    for path in whole.iterdir():
        if path.is_file():
            (data / path.name).write_bytes(path.read_bytes())
            (data / path.name).chmod(0o600)
    return data


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`kestrel-gateway` with these arguments, in this process."""
    done = Commands("http://127.0.0.1:9")(*map(str, arguments))
    return subprocess.CompletedProcess(arguments, done.returncode, done.stdout.decode(), done.stderr.decode())


def served(data: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """`serve`, which is expected to end by itself."""
    command = [*COMMAND, "serve", "--data", str(data), "--port", str(free_port()), "--workers", "1"]
    return run_process([*command, *flags], 120)


def set_format(path: Path, version: int, *, killed: bool) -> None:
    """killed: as a newer version that was killed right after its upgrade leaves it, with the format in the log."""
    file = sqlite3.connect(path, isolation_level=None)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute(f"PRAGMA user_version = {version}")
    if not killed:
        file.close()
        return
    left = {each: each.read_bytes() for each in path.parent.glob(f"{path.name}*") if not each.name.endswith("-shm")}
    file.close()
    for each, content in left.items():
        each.write_bytes(content)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("name", NEWER)
def test_a_newer_format(whole: Path, tmp_path: Path, name: str, *, killed: bool) -> None:
    """Each names both formats, and changes nothing."""
    data = copied(whole, tmp_path)
    version, newest = NEWER[name]
    set_format(data / name, version, killed=killed)
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    why = (
        f"{data / name}: format {version} is above {newest}, the newest that this version of kestrel-gateway knows: "
        "use the version that wrote it, or a newer one"
    )

    done = command("backup", tmp_path / "copy", "--data", data)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"kestrel-gateway backup: {why}\n")
    assert list(tmp_path.iterdir()) == [data]

    done = command("doctor", "--data", data, "--port", str(free_port()))
    assert done.returncode == 1
    assert f"error     data         {why}\n" in done.stdout

    done = served(data)
    assert (done.returncode, done.stderr) == (2, f"kestrel-gateway: data: {why}\n")
    left = {path.name: path.read_bytes() for path in data.iterdir() if not path.name.endswith("-shm")}
    assert left == before


def test_with_kestrel_servers_the_jobs_of_a_newer_format_do_not_matter(whole: Path, tmp_path: Path) -> None:
    """The gateway does not use that file."""
    data = copied(whole, tmp_path)
    set_format(data / "broker.sqlite", 4, killed=False)
    done = command("doctor", "--data", data, "--port", str(free_port()), "--kestrel", f"127.0.0.1:{free_port()}")
    assert "format" not in done.stdout


def no_database(data: Path) -> None:
    (data / "broker.sqlite").write_bytes(b"no database" * 1000)


def a_directory(data: Path) -> None:
    (data / "broker.sqlite").unlink()
    (data / "broker.sqlite").mkdir()


def another_program(data: Path) -> None:
    with sqlite3.connect(data / "broker.sqlite") as file:
        file.execute("PRAGMA application_id = 1")
    file.close()


def empty_beside_its_log(data: Path) -> None:
    with sqlite3.connect(data / "broker.sqlite", isolation_level=None) as file:
        file.execute("INSERT INTO meta VALUES ('status', 'UP')")
        log = (data / "broker.sqlite-wal").read_bytes()
    file.close()
    (data / "broker.sqlite").unlink()
    (data / "broker.sqlite-wal").write_bytes(log)


EMPTY = (
    "is empty or missing, but its log (broker.sqlite-wal) contains jobs; restore the file from a backup, or move the "
    "log away to start without jobs"
)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (no_database, "file is not a database; `kestrel-gateway broker check` says what is damaged"),
        (a_directory, "unable to open database file"),
        (another_program, "is not a file of the broker"),
        (empty_beside_its_log, EMPTY),
    ],
)
def test_another_start_would_not_help(whole: Path, tmp_path: Path, spoil: Callable[[Path], None], why: str) -> None:
    """The broker is started once, and the exit code keeps a service manager from trying again."""
    data = copied(whole, tmp_path)
    spoil(data)
    done = served(data)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert lines == [f"kestrel-gateway broker: {data / 'broker.sqlite'}: {why}"]


OTHER = 65534
"""A user who is not the one that runs these tests."""


@pytest.fixture
def without_rights() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `kestrel-gateway` as a user who must obey rights: root without the capabilities that override them."""
    module = "gateway" if os.geteuid() else without_rights_module.__name__

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        done = run_process([sys.executable, "-m", module, *map(str, arguments)], 120)
        if done.returncode == without_rights_module.REFUSED:
            pytest.skip("root may not give up its rights here")
        return done

    return run


@pytest.fixture
def taken_away() -> Iterator[Callable[[Path], None]]:
    """Gives a file or directory to another user. Only root can: any other user loses the rights to it instead."""
    changed = []

    def take_away(path: Path) -> None:
        if os.geteuid():
            changed.append(path)
            path.chmod(0)
        else:
            os.chown(path, OTHER, OTHER)

    yield take_away
    for path in changed:
        path.chmod(0o700)


SLOW = pytest.mark.slow  # the directory and one file in it are examined each time


@pytest.mark.parametrize(
    "whose",
    ["", "broker.sqlite", *(pytest.param(each, marks=SLOW) for each in ("lease.key", "lock", "broker.lock", ".."))],
)
def test_missing_rights_end_a_start_at_once(
    whole: Path, tmp_path: Path, without_rights, taken_away, whose: str
) -> None:
    """To the directory, a file in it, or the directory above: exit code 2, and one line that names it."""
    (tmp_path / "of").mkdir(mode=0o700)
    data = copied(whole, tmp_path / "of")
    taken_away(data.parent if whose == ".." else data / whose)
    done = without_rights("serve", "--data", data, "--port", free_port(), "--workers", "1")
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert str(data if whose in {"..", "broker.lock"} else data / whose) in lines[0]
    assert re.search("ermission|unable to open|is not readable", lines[0]), lines


@SLOW
@pytest.mark.parametrize("above", [False, True])
def test_missing_rights_are_told_by_every_command(
    whole: Path, tmp_path: Path, without_rights, taken_away, *, above: bool
) -> None:
    """One line, and no traceback."""
    (tmp_path / "of").mkdir(mode=0o700)
    data = copied(whole, tmp_path / "of")
    taken_away(data.parent if above else data)
    unread = "cannot be read: Permission denied; run {} as the gateway's user"
    for arguments, code, line in (
        (("doctor", "--data", data, "--port", free_port()), 1, unread.format("doctor")),
        (("backup", tmp_path / "copy", "--data", data), 1, unread.format("backup")),
        (("broker", "check", data), 1, f"{data / 'broker.sqlite'}: Permission denied"),
        (("export", "q", data / "file"), 2, f"{data / 'file'} cannot be written: Permission denied"),
        (("import", "q", data / "file"), 2, f"{data / 'file'} cannot be read: Permission denied"),
    ):
        expected = code, line
        if not above and arguments[-1] != data / "file":  # the flag itself is refused
            expected = 2, f"'{data}' is not readable"
        done = without_rights(*arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (expected[0], False), done.stderr
        assert expected[1] in done.stdout + done.stderr
        assert done.stderr.count("\n") <= 1


def test_a_mistake_in_the_brokers_file(tmp_path: Path) -> None:
    """It is a mistake in a file: exit code 2, after one start."""
    (tmp_path / "broker.toml").write_text("y = 1\n")
    done = served(tmp_path / "data", "--broker-config", str(tmp_path / "broker.toml"))
    assert done.returncode == 2, done.stderr
    assert len([line for line in done.stderr.splitlines() if " INFO " not in line]) == 1


def test_the_units_do_not_restart_it(root: Path) -> None:
    """The exit code is the one that the service's unit excludes."""
    unit = (root / "deploy" / "systemd" / "kestrel-gateway.service").read_text()
    assert "RestartPreventExitStatus=2\n" in unit
