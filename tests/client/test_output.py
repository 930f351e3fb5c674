"""Output that cannot be written: a full disk, a reader that has gone, a file that is closed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.lab.commands import COMMAND, Commands, Finished, environment
from tests.lab.forkserver import ForkedProcess
from tests.lab.gateway import Running

COMMANDS = (
    ("put", "QUEUE", "x"),
    ("peek", "QUEUE"),
    ("queues",),
    ("queues", "--json"),
    ("queue", "QUEUE"),
    ("dead-letters", "QUEUE"),
    ("pause", "QUEUE"),
    ("resume", "QUEUE"),
    ("redrive", "QUEUE"),
    ("subscribe", "QUEUE", "child"),
    ("subscriptions", "QUEUE"),
    ("unsubscribe", "QUEUE", "child", "--yes"),
    ("flush", "QUEUE", "--yes"),
    ("delete", "QUEUE", "--yes"),
    ("keys", "new", "--name", "a", "--scope", "consume"),
    ("check", "--queues", "/dev/null"),
    ("doctor",),
    ("--version",),
    ("--help",),
    ("put", "--help"),
)
"""In an order in which each command succeeds on a queue with a job."""


INCOMPLETE = (
    b"kestrel-gateway: standard output: No space left on device; the output is incomplete, and what the command has "
    b"changed remains\n"
)


def unwritten(command: Commands, *arguments: str, full: bool) -> Finished:
    """Runs a command whose output goes to a full disk, or to a pipe that nobody reads."""
    if full:
        number = os.open("/dev/full", os.O_WRONLY)
    else:
        ours, number = os.pipe()
        os.close(ours)
    output = os.fdopen(number, "w")
    done = command.into(output, *arguments)
    with suppress(BrokenPipeError):  # of what click leaves in the buffer
        output.close()
    return done


@pytest.mark.parametrize(("full", "message"), [(True, INCOMPLETE), (False, b"")], ids=["full", "gone"])
def test_no_output(command: Commands, queue: str, *, full: bool, message: bytes):
    """Every command ends with 1. A full disk is reported in one line. What the command has changed remains."""
    command.text("put", queue, "x")
    for arguments in COMMANDS:
        done = unwritten(command, *(part.replace("QUEUE", queue) for part in arguments), full=full)
        assert (done.returncode, done.stderr) == (1, message), arguments
    assert command("queue", queue).returncode == 3, "it was deleted"


@pytest.mark.parametrize("ack", [["--ack"], []], ids=["ack", "lease"])
@pytest.mark.parametrize(
    ("full", "why"), [(True, b"No space left on device"), (False, b"Broken pipe")], ids=["full", "gone"]
)
def test_a_job_that_cannot_be_printed(command: Commands, queue: str, ack: list[str], *, full: bool, why: bytes):
    """`next` gives it back at once, as the same attempt."""
    command.text("put", queue, "precious")
    done = unwritten(command, "next", queue, *ack, full=full)
    assert done.returncode == 1
    assert done.stderr == b"kestrel-gateway: standard output: " + why + b"; the job is back on its queue\n"
    again = json.loads(command.text("next", queue, "--ack", "--wait", "0"))
    assert (again["data"], again["attempt"]) == ("precious", 1)


def without(
    gateway: Running, closed: str, *arguments: str, stderr: int | IO[bytes] = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """A command that has no standard files of these numbers."""
    command = [sys.executable, "-m", "tests.lab.closed_files", closed, *arguments] if closed else [*COMMAND, *arguments]
    process: subprocess.Popen[bytes] = ForkedProcess(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, env=environment(gateway.url)
    )
    with process:
        output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def test_closed_output(gateway: Running, http: httpx.Client, command: Commands, queue: str):
    """A command works as with /dev/null; `next` takes no job, because nobody could see its lease."""
    done = without(gateway, "1", "put", queue, "x")
    assert (done.returncode, done.stderr) == (0, b"")
    done = without(gateway, "1", "queues")
    assert (done.returncode, done.stderr) == (0, b"")
    done = without(gateway, "1", "next", queue)
    assert done.returncode == 2
    assert done.stderr == (
        b"kestrel-gateway: standard output is closed, so a job could not be printed; no job was taken\n"
    )
    figures = http.get(f"/queues/{queue}").json()
    assert (figures["items"], figures["open_reads"]) == (1, 0)


@pytest.mark.parametrize(("closed", "full"), [("", True), ("2", False), ("1", True)], ids=["full", "closed", "both"])
def test_messages_that_cannot_be_written(
    gateway: Running, http: httpx.Client, queue: str, tmp_path: Path, *, closed: str, full: bool
):
    """They change neither what a command does nor its exit code."""
    (tmp_path / "lines").write_text("x\n1\n2\n")
    with Path("/dev/full").open("wb") as disk:
        run = partial(without, gateway, closed, stderr=disk if full else subprocess.PIPE)
        done = run("put", queue, "--lines", "--file", str(tmp_path / "lines"))
        assert done.returncode == 1, "the first line is not JSON"
        assert http.get(f"/queues/{queue}").json()["items"] == 2
        assert run("queue", "nosuch").returncode == 3
        assert run("put", queue, "--skip", "1").returncode == 2


STRANGE = "no\nsuch\x1b[2J  file\u2028"
"""A terminal obeys the escape; logs and scripts count lines."""


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", "q", "--file", STRANGE),
        ("put", "q", "--lines", "--file", STRANGE),
        ("put", "q", "x", "--type", STRANGE),
        ("import", "q", STRANGE),
        ("export", "q", f"{STRANGE}/file"),
        ("queues", "--key-file", STRANGE),
        ("queues", "--config", STRANGE),
        ("queues", "--sort", STRANGE),
        ("redrive", "q", "--reason", STRANGE),
        ("extend", "x", STRANGE),
        ("import-journal", STRANGE, "--dry-run"),
        ("work", "q", "--to", "http://127.0.0.1:9/", "--secret-file", STRANGE),
        ("check", "--queues", STRANGE),
        ("backup", "copy", "--data", STRANGE),
        ("broker", "check", STRANGE),
        ("broker", "--listen", "127.0.0.1:0", "--data", "/tmp", "--config", STRANGE),
        ("serve", "--data", f"/dev/null/{STRANGE}"),
        ("serve", "--keys", STRANGE),
        ("healthcheck", "--url", f"http://127.0.0.1:9/{STRANGE}"),
        (STRANGE,),
    ],
    ids=lambda arguments: " ".join(arguments).replace(STRANGE, "STRANGE"),
)
def test_a_name_in_a_message_is_escaped(command: Commands, arguments: tuple[str, ...]):
    """The message is one line, and shows the name as it is, with its spaces."""
    done = command(*arguments)
    assert done.returncode in (1, 2)
    text = done.stderr.decode()
    assert text.endswith("\n")
    lines = [line for line in text.splitlines() if "INFO" not in line]
    assert len(lines) == 1, text
    assert lines[0].isprintable()
    assert "no\\nsuch\\x1b[2J  file" in lines[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("queues", "--config", "/"),
        ("work", "q", "--to", "http://127.0.0.1:9/", "--secret-file", "/"),
        ("broker", "--listen", "127.0.0.1:0", "--data", "DIR/data", "--config", "/"),
        ("import", "q", "DIR/file"),
        ("backup", "/proc/nowhere", "--data", "DIR"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_why_a_file_cannot_be_used(command: Commands, tmp_path: Path, arguments: tuple[str, ...]):
    """In the words of the system, without its numbers and without the name a second time."""
    (tmp_path / "file").write_text("{}\n")
    (tmp_path / "file.q.progress").mkdir()
    (tmp_path / "lease.key").touch()
    done = command(*(each.replace("DIR", str(tmp_path)) for each in arguments))
    assert done.returncode in (1, 2)
    last = done.stderr.decode().splitlines()[-1]
    assert re.search(": (Is a directory|No such file or directory)(; delete it, or give --from-start)?$", last), last


@pytest.mark.parametrize(
    "progress", ["[]", "{}", "1", '{"url": "URL"}', '{"url": "URL", "id": "x", "line": [], "offset": 0}']
)
def test_the_progress_of_an_import_that_is_none(command: Commands, tmp_path: Path, progress: str):
    """It is refused in one line."""
    (tmp_path / "file").write_text("{}\n")
    notes = tmp_path / "file.q.progress"
    notes.write_text(progress.replace("URL", command.url))
    done = command("import", "q", str(tmp_path / "file"))
    why = f"kestrel-gateway: {notes} is not the progress of an import; delete it, or give --from-start\n"
    assert (done.returncode, done.stderr.decode()) == (2, why)


@pytest.mark.parametrize(
    "arguments",
    [
        ("pause", "q", "--for"),
        ("queues", "--watch", "--every"),
        ("next", "q", "--wait"),
        ("queues", "--retry"),
        ("serve", "--max-timeout"),
    ],
    ids=lambda arguments: arguments[0] + arguments[-1],
)
def test_a_duration_of_centuries(command: Commands, arguments: tuple[str, ...]):
    """It is refused, before a clock or a date ends."""
    done = command(*arguments, "999999999999")
    assert done.returncode == 2
    assert b"999999999999 is above the maximum of 1000000000 seconds" in done.stderr


def test_every_standard_file_is_closed(gateway: Running, command: Commands, queue: str):
    """No connection takes the number of a standard file, and the job is stored."""
    # A shell closes the files. The command is not forked, so that Python finds them so.
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND, "put", queue, "x"]
    assert subprocess.run(shell, env=environment(gateway.url), check=False, timeout=60).returncode == 0
    done = without(gateway, "0", "put", queue)
    assert (done.returncode, b"standard input is empty" in done.stderr) == (2, True)
    assert json.loads(command.text("next", queue, "--ack", "--wait", "0"))["data"] == "x"
