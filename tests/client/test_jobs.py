"""`put`, `next`, `peek` and the settlements from a terminal, against a real gateway."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from gateway.client.sending import Line, LineSender
from tests.lab.commands import COMMAND, Commands, environment
from tests.lab.forkserver import ForkedProcess
from tests.lab.gateway import Running, running
from tests.lab.ports import free_port


def test_a_job_goes_there_and_back(command: Commands, queue: str):
    """`put` prints the id; `next` prints the job with its lease; `ack` ends it; then `next` has exit code 3."""
    job_id = command.text("put", queue, '{"to": "ada", "big": 12345678901234567890}').strip()
    shown = command.text("next", queue, "--lease", "30")
    assert '{"to": "ada", "big": 12345678901234567890}' in shown  # byte for byte
    job = json.loads(shown)
    assert (job["id"], job["attempt"], job["content_type"]) == (job_id, 1, "application/json")
    assert command.text("extend", job["lease"]["id"], "60")[:2] == "20"
    assert command.text("ack", job["lease"]["id"]) == ""
    empty = command("next", queue, "--wait", "0")
    assert (empty.returncode, empty.stdout) == (3, b"")


def test_a_long_wait_is_several_polls(tmp_path: Path):
    """A wait above the gateway's longest is no error, and ends with the job, or when it is over."""
    with running(tmp_path / "data", "--max-timeout", "1", "--default-timeout", "1") as gateway:
        command = Commands(gateway.url)
        command.text("put", "late", "job", "--delay", "2")
        assert command.text("next", "late", "--wait", "40", "--ack", "--raw") == "job"


@pytest.mark.parametrize(
    ("text", "content_type"),
    [
        ('{"a": 1}', "application/json"),
        ("17", "application/json"),
        ("hello ä", "text/plain; charset=utf-8"),
        ("NaN", "text/plain; charset=utf-8"),
        ("", "text/plain; charset=utf-8"),
    ],
)
def test_the_type_of_a_text_is_that_of_its_content(command: Commands, queue: str, text: str, content_type: str):
    """JSON is JSON, anything else is text; `--json` prints the receipt that says so."""
    receipt = json.loads(command.text("put", queue, text, "--json"))
    assert receipt["content_type"] == content_type
    assert command.text("peek", queue, "--raw") == text


def test_bytes_of_a_file_and_of_standard_input_come_back(command: Commands, queue: str, tmp_path: Path):
    """Every byte survives, in both directions, with the type that was given."""
    body = bytes(range(256)) * 3
    (tmp_path / "job").write_bytes(body)
    command.text("put", queue, "--file", str(tmp_path / "job"), "--type", "image/png")
    command.text("put", queue, stdin=b"\xff\x00")
    taken = [command("next", queue, "--ack", "--raw", "--wait", "0") for _ in range(3)]
    assert [each.stdout for each in taken] == [body, b"\xff\x00", b""]
    assert [each.returncode for each in taken] == [0, 0, 3]


def test_nack_and_reject_say_why(command: Commands, queue: str):
    """A nack gives the job back with its reason; a rejected job is a dead letter with its reason."""
    command.text("put", queue, "work")
    first = json.loads(command.text("next", queue))
    command.text("nack", first["lease"]["id"], "--reason", "not today")
    second = json.loads(command.text("next", queue))
    assert (second["attempt"], second["attributes"]["lasterror"]) == (2, "not today")
    command.text("reject", second["lease"]["id"], "--reason", "never")
    dead = json.loads(command.text("dead-letters", queue, "--peek"))
    assert dead["attributes"]["lasterror"] == "never"
    again = command("ack", second["lease"]["id"])
    assert again.returncode == 1
    assert b"lease-settled" in again.stderr


def test_lines_are_jobs(command: Commands, queue: str, http: httpx.Client):
    """Each line is a job with its own bytes; a bad line is named and the others are stored."""
    lines = [b'{"n": %d, "x": 1.10}' % number for number in range(1203)]
    lines[700] = b"{not json"
    lines.insert(5, b"")
    done = command("put", queue, "--lines", stdin=b"\n".join(lines))
    assert (done.returncode, done.stdout) == (1, f"1202 jobs stored on {queue}, 1 not accepted\n".encode())
    assert b"line 702: invalid-body" in done.stderr
    assert http.get(f"/queues/{queue}").json()["items"] == 1202
    assert command.text("next", queue, "--ack", "--raw") == '{"n": 0, "x": 1.10}'


def test_an_interrupted_put_of_lines_names_the_line_to_continue_with(
    command: Commands, gateway: Running, queue: str, http: httpx.Client, tmp_path: Path
):
    """The request that is under way ends first, so that no job is stored twice or left out."""
    file = tmp_path / "lines"
    file.write_bytes(b"".join(b"%d\n" % number for number in range(20_000)))
    process: subprocess.Popen[bytes] = ForkedProcess(
        [*COMMAND, "put", queue, "--lines", "--file", str(file)], stderr=subprocess.PIPE, env=environment(gateway.url)
    )
    while http.get(f"/queues/{queue}?missing=zero").json()["items"] == 0:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    stored = http.get(f"/queues/{queue}").json()["items"]
    assert f"{stored} jobs are stored; continue with --skip {stored}\n".encode() in errors
    assert stored < 20_000


@pytest.mark.parametrize("arguments", [["put", "--lines", "--file"], ["import"]])
def test_a_signal_behind_the_last_request_interrupts_nothing(
    command: Commands, queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
):
    """All lines are stored, so nothing is left to continue with."""
    store = LineSender.store

    def interrupted_store(sender: LineSender, lines: list[Line]) -> None:
        signal.raise_signal(signal.SIGINT)
        store(sender, lines)

    monkeypatch.setattr(LineSender, "store", interrupted_store)
    (tmp_path / "jobs").write_text('{"specversion":"1.0","id":"1","source":"/s","type":"t"}\n' * 3)
    name, *flags = arguments
    done = command(name, queue, *flags, str(tmp_path / "jobs"))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"3 jobs stored on {queue}\n".encode(), b"")


@pytest.mark.parametrize("arguments", [["put", "--lines", "--file"], ["import"]])
def test_many_lines_that_are_not_accepted_are_counted(
    command: Commands, queue: str, tmp_path: Path, arguments: list[str]
):
    """The first ones are reported. For an import of other lines there is a hint at `put --lines`."""
    (tmp_path / "jobs").write_text("{x\n" * 25)
    name, *flags = arguments
    done = command(name, queue, *flags, str(tmp_path / "jobs"))
    assert (done.returncode, done.stdout) == (1, f"0 jobs stored on {queue}, 25 not accepted\n".encode())
    lines = done.stderr.decode().splitlines()
    assert [line.split(":")[1] for line in lines[:20]] == [f" line {number}" for number in range(1, 21)]
    assert lines[20:21] == ["kestrel-gateway: further lines that are not accepted are only counted"]
    assert ["put --lines" in line for line in lines[21:]] == ([True] if name == "import" else [])


def test_skip_continues_behind_what_is_stored(command: Commands, queue: str, http: httpx.Client):
    """--skip counts the lines of the file."""
    assert command.text("put", queue, "--lines", "--skip", "2", stdin=b"1\n2\n3\n4\n") == f"2 jobs stored on {queue}\n"
    assert http.get(f"/queues/{queue}/peek").json()["data"] == 3
    assert command.text("put", queue, "--lines", "--skip", "2", stdin=b"1\n2\n\n") == f"0 jobs stored on {queue}\n"
    done = command("put", queue, "--lines", "--skip", "3", stdin=b"1\n2\n")
    assert (done.returncode, b"above the number of lines, 2" in done.stderr) == (2, True)


def test_lines_with_an_idempotency_key_are_stored_once(command: Commands, queue: str, http: httpx.Client):
    """Also by another run of the command, from the first line or from a later request on; other lines are new jobs."""
    lines = b"".join(b"%d\n" % number for number in range(1500))
    for _ in range(2):
        command.text("put", queue, "--lines", "--idempotency-key", "2026-01-31", stdin=lines)
        assert http.get(f"/queues/{queue}").json()["items"] == 1500
    command.text("put", queue, "--lines", "--idempotency-key", "2026-01-31", "--skip", "1000", stdin=lines)
    assert http.get(f"/queues/{queue}").json()["items"] == 1500
    command.text("put", queue, "--lines", "--idempotency-key", "2026-02-01", stdin=b"1\n")
    assert http.get(f"/queues/{queue}").json()["items"] == 1501


def test_a_progress_bar_is_for_terminals_only(gateway: Running, queue: str, tmp_path: Path):
    """On a terminal there is a bar; what is piped gets plain text."""
    (tmp_path / "jobs").write_bytes(b"1\n" * 3)
    ours, theirs = pty.openpty()
    process: subprocess.Popen[bytes] = ForkedProcess(
        [*COMMAND, "put", queue, "--lines", "--file", str(tmp_path / "jobs")],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(gateway.url, TERM="xterm"),
    )
    with process:
        written, _ = process.communicate(timeout=60)
    os.close(theirs)
    assert written == f"3 jobs stored on {queue}\n".encode()
    assert b"storing" in os.read(ours, 65536)
    os.close(ours)


def test_a_gateway_that_is_away_is_tried_again():
    """Nothing listens: the command tries for as long as --retry says, and its exit code is 5."""
    done = Commands(f"http://127.0.0.1:{free_port()}")("put", "q", "x", "--retry", "2")
    assert done.returncode == 5
    assert b"next try in" in done.stderr
    assert b"no-answer" in done.stderr.splitlines()[-1]
    assert b": Connection refused" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["put", "bad__name", "x"], 1, "invalid-name"),
        (["peek", "no-such-queue"], 3, "queue-not-found"),
        (["put", "q", "x", "--file", "f"], 2, "given twice"),
        (["put", "q", "--file", "/nonexistent/f"], 2, "cannot be read"),
        (["put", "q", "x", "--lines"], 2, "--lines reads"),
        (["put", "q", "x", "--skip", "1"], 2, "--skip has no effect without --lines"),
        (["put", "q", "--lines", "--json"], 2, "--lines reads jobs"),
        (["queues", "--every", "1"], 2, "--every has no effect without --watch; leave it out"),
        (["dead-letters", "q", "list"], 2, "list is not the id of a dead letter; did you mean --list N?"),
        (["dead-letters", "q", "peek"], 2, "did you mean --peek?"),
        (["dead-letters", "q", "L", "delete", "--yes", "--json"], 2, "--json has no effect with delete"),
        (["work", "q", "--max-time", "1", "--reject-on", "400", "--exec", "true"], 2, "--reject-on has no effect"),
        (["work", "q", "--max-time", "1", "--secret-file", "/s", "--exec", "x"], 2, "--secret-file has no effect"),
        (["work", "q", "--max-time", "1", "--kill-after", "5", "--to", "http://h/"], 2, "--kill-after has no effect"),
        (["import-journal", "/tmp", "--dry-run", "--skip-damaged"], 2, "--skip-damaged has no effect with --dry-run"),
        (["import-journal", "/tmp", "--dry-run", "--notes", "n"], 2, "--notes has no effect with --dry-run"),
        (["import-journal", "/tmp", "--dry-run", "--from-start"], 2, "--from-start has no effect with --dry-run"),
        (["import-journal", "/tmp", "--to", "h:1", "--broker-config", "f"], 2, "--broker-config has no effect without"),
        (["put", "q", "x", "--at", "tomorrow"], 1, "invalid-parameter: at: 'tomorrow'"),
        (["next", "q", "--raw"], 2, "--raw prints no lease"),
        (["next", "q", "--lease", "0"], 1, "invalid-parameter: lease_seconds: 0"),
        (["queues", "--watch", "--every", "0"], 2, "0 is below the minimum of 0.1 seconds"),
        (["ack", "../queues"], 3, "lease-not-found"),
        (["ack", "A" * 60], 3, "lease-not-found"),
        (["put", "q", "x", "--url", "localhost"], 2, "url: 'localhost' is not a URL"),
        (["put", "q", "x", "--url", "http://localhost:80x"], 2, "url: 'http://localhost:80x' is not a URL"),
        (["put", "q"], 2, "standard input is empty"),
        (["next", "q", "--lease", "99999999"], 1, "lease_seconds: 99999999"),
        (["nack", "A" * 60, "--head", "--delay", "5"], 2, "--head means at once, and --delay later"),
        (["nack", "A" * 60, "--head", "--delay", "0"], 3, "lease-not-found"),
        (["put", "q", "x", "--ordering-key", "ü"], 2, "'ü'; use printable ASCII characters"),
        (["put", "q", "x", "--ordering-key", ""], 2, "the value is empty"),
        (["put", "q", "x", "--idempotency-key", "a\nb"], 2, "'a\\nb'; use printable ASCII characters"),
        (["put", "q", "x", "--idempotency-key", " a"], 2, "' a'; use printable ASCII characters"),
        (["put", "q", "x", "--type", "text/ü"], 2, "'text/ü'; use printable ASCII characters"),
        (["put", "q", "x", "--key", "ü"], 2, "key: a key consists of visible ASCII"),
        (["put", "q", "x", "--key", ""], 2, "key: the value is empty"),
        (["put", "q", "x", "--url", "http://a\x01b"], 2, "is not a URL"),
        (["put", "q\udcff", "x"], 2, "is not a name"),
        (["put", "q", "x", "--at", "\udcff"], 2, "at: '\\udcff' is not UTF-8"),
        (["nack", "A" * 60, "--reason", "\udcff"], 2, "reason: '\\udcff' is not UTF-8"),
        (["queues", "--filter", "\udcff"], 2, "filter: '\\udcff' is not UTF-8"),
        (["put", "", "x"], 2, "the name is empty"),
        (["put", "bad/name", "x"], 2, "'bad/name': a name may not contain '/'"),
        (["next", ".."], 2, "'..' is not a name"),
        (["subscribe", "q", "a/b"], 2, "'a/b': a name may not contain '/'"),
        (["work", "a/b", "--max-time", "1", "--exec", "true"], 2, "'a/b': a name may not contain '/'"),
        (["extend", "A" * 60, "-1"], 2, "'-1' is not a number of seconds"),
        (["put", "q", "x", "--ttl", "soon"], 2, "'soon' is not a number of seconds"),
        (["put", "q", "x", "--ttl", "0"], 1, "ttl: 0 is not between"),
        (["put", "q", "x", "--ttl", "0.00001"], 1, "ttl: 0.00001 is not between"),
        (["put", "q", "x", "--delay", "99999999"], 1, "delay: 99999999 is not between"),
        (["nack", "A" * 60, "--delay", "99999999"], 1, "delay: 99999999 is greater"),
        (["extend", "A" * 60, "0"], 1, "lease_seconds: 0 is less"),
    ],
)
def test_exit_codes(command: Commands, arguments: list[str], code: int, message: str):
    """Each kind of failure has its exit code and one line that says what is wrong."""
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_a_delayed_job_comes_later(command: Commands, queue: str):
    """--delay and --at are passed on."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    receipt = json.loads(command.text("put", f"{queue}-at", "x", "--at", tomorrow, "--json"))
    assert receipt["due_at"] == tomorrow
    command.text("put", queue, "later", "--delay", "0.5")
    assert command("next", queue, "--wait", "0").returncode == 3
    assert command.text("next", queue, "--ack", "--raw", "--wait", "10") == "later"
