"""`export` and `import`: what was on a queue is on the other one afterwards, however often they are interrupted.

KESTREL_GATEWAY_TEST_EXPORT_JOBS is the number of jobs of the long proof (100,000); the suite takes 400.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.client import events, json_parts
from tests.batches.test_batches import broker_socket
from tests.lab.commands import COMMAND, Commands, environment, run_process
from tests.lab.examples import some
from tests.lab.forkserver import ForkedProcess
from tests.lab.gateway import Running, running
from tests.lab.holding import HoldingProxy
from tests.lab.memcache import MemcacheClient
from tests.lab.waiting import until

SUITE = 400
JOBS = int(os.environ.get("KESTREL_GATEWAY_TEST_EXPORT_JOBS", str(SUITE)))
KINDS: tuple[tuple[str, bytes], ...] = (
    ("application/json", b'{"big": 123456789012345678901234567890, "x": 1.10, "e": 1e400}'),
    ("application/json", b'{\n  "pretty":\r\n\t[1, 2]\n}\n'),
    ("application/json", '"smörgåsbord \U0001f980 \\u0000"'.encode()),
    ("application/json", b'{"a": ",\\"data\\":", "a": 2}'),
    ("application/json", b"null"),
    ("application/octet-stream", bytes(range(256))),
    ("text/plain; charset=utf-8", 'Zürich, "data":\n1'.encode()),
    ("text/plain", b""),
)
Copy = tuple[str, str, bytes]


def event(number: int) -> tuple[Copy, bytes]:
    """A job, and the event that enqueues it with these very bytes."""
    content_type, body = KINDS[number % len(KINDS)]
    event = {"specversion": "1.0", "id": f"job {number}", "source": "/a", "type": "t", "note": '","data":ü'}
    head = json.dumps({**event, "datacontenttype": content_type}).encode()[:-1]
    if content_type == "application/json":
        body = body.strip()  # what is around a JSON value is not part of it
        data = b',"data":' + body
    elif content_type.startswith("text/"):
        data = b',"data":' + json.dumps(body.decode()).encode()
    else:
        data = b',"data_base64":"' + base64.b64encode(body) + b'"'
    return (f"job {number}", content_type, body), head + data + b"}"


def fill(http: httpx.Client, queue: str, count: int = JOBS) -> list[Copy]:
    """Enqueues jobs of every kind; returns id, type and bytes of each."""
    copies: list[Copy] = []
    for begin in range(0, count, 500):
        jobs = [event(number) for number in range(begin, min(begin + 500, count))]
        body = b"[" + b",".join(each for _, each in jobs) + b"]"
        answer = http.post(
            f"/queues/{queue}/jobs", content=body, headers={"Content-Type": "application/cloudevents-batch+json"}
        )
        assert answer.status_code == 201, answer.text
        copies += [copy for copy, _ in jobs]
    return copies


def drain(http: httpx.Client, queue: str) -> list[Copy]:
    """Takes and acks every job."""
    copies: list[Copy] = []
    ack = ""
    while (answer := http.get(f"/queues/{queue}/next?timeout=0&format=raw{ack}")).status_code == 200:
        copies.append((answer.headers["ce-id"].replace("%20", " "), answer.headers["content-type"], answer.content))
        ack = f"&ack={answer.headers['lease-id']}"
    assert answer.status_code == 204, answer.text
    return copies


def interrupted(url: str, progress: Path, *arguments: str) -> int:
    """Starts a command and interrupts it when the file has changed: the long proof kills it."""
    before = progress.stat().st_size if progress.exists() else 0
    command = [*COMMAND, *arguments]
    process: subprocess.Popen[bytes] = ForkedProcess(command, env=environment(url), stdout=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or (progress.exists() and progress.stat().st_size > before))
        process.send_signal(signal.SIGKILL if JOBS > SUITE else signal.SIGINT)
        return process.wait(30)
    finally:
        process.kill()
        process.wait()


def ids(file: Path) -> list[str]:
    """The ids in the file, in its order."""
    return [str(json.loads(line, parse_int=str)["id"]) for line in file.read_bytes().splitlines()]


def test_an_export_has_the_order_of_the_queue(command: Commands, gateway: Running, queue: str, tmp_path: Path):
    """Also after an interruption, which ends the command only when the jobs in hand are in the file and acked."""
    file = tmp_path / "jobs"
    with gateway.client() as http:
        while True:
            names = [each for each, _, _ in fill(http, queue, 500)]
            code = interrupted(gateway.url, file, "export", queue, str(file))
            if code:
                break
            assert ids(file) == names  # it was done before the signal came
            file.unlink()
        assert code == 130
        assert http.get(f"/queues/{queue}").json()["open_reads"] == 0
        left = len(names) - len(ids(file))
        assert 0 < left < len(names)
        assert command.text("export", queue, str(file), "--append") == f"{left} jobs moved to {file}\n"
    assert ids(file) == names


def test_jobs_that_come_with_a_signal_are_exported(gateway: Running, queue: str, http: httpx.Client, tmp_path: Path):
    """The answer with them is under way at Ctrl-C: they are in the file and acked, and none stays leased."""
    fill(http, queue, 5)
    started: list[subprocess.Popen[bytes]] = []

    def interrupt() -> None:
        until(lambda: bool(started))
        started[0].send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started[0].wait(0.3)  # longer than the command takes to close its connection

    with HoldingProxy(gateway.url, interrupt) as proxy:
        command = [*COMMAND, "export", queue, str(tmp_path / "jobs"), "--wait", "30"]
        started.append(ForkedProcess(command, stdout=subprocess.PIPE, env=environment(proxy.url)))
        with started[0] as process:
            assert process.communicate(timeout=60)[0] == f"5 jobs moved to {tmp_path / 'jobs'}\n".encode()
    assert process.returncode == 130
    assert http.get(f"/queues/{queue}").json()["backlog"] == 0


@pytest.mark.parametrize("number", some([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
def test_a_second_signal_gives_jobs_back(
    gateway: Running, queue: str, http: httpx.Client, tmp_path: Path, number: signal.Signals
):
    """The answer with them is under way: none is in the file, and none stays leased."""
    fill(http, queue, 5)
    started: list[subprocess.Popen[bytes]] = []

    def interrupt() -> None:
        until(lambda: bool(started))
        for _ in range(2):
            started[0].send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                started[0].wait(0.1)  # it takes the signals one by one

    with HoldingProxy(gateway.url, interrupt) as proxy:
        command = [*COMMAND, "export", queue, str(tmp_path / "jobs"), "--wait", "30"]
        started.append(ForkedProcess(command, stdout=subprocess.PIPE, env=environment(proxy.url)))
        with started[0] as process:
            process.communicate(timeout=60)
    assert process.returncode == 130
    figures = http.get(f"/queues/{queue}").json()
    assert (figures["items"], figures["open_reads"]) == (5, 0)
    assert http.get(f"/queues/{queue}/next").json()["attempt"] == 1


def drain_raw(http: httpx.Client, queue: str) -> list[bytes]:
    """Takes and acks every item of a raw queue."""
    found = []
    while (answer := http.get(f"/queues/{queue}/next?timeout=0&format=raw")).status_code == 200:
        found.append(answer.content)
        http.post(f"/leases/{answer.headers['lease-id']}/ack").raise_for_status()
    return found


def drain_batches(http: httpx.Client, queue: str) -> list[Copy]:
    """As `drain`, 100 jobs a request, for the long proof: so many single ones take an hour."""
    copies: list[Copy] = []
    path, accept = f"/queues/{queue}/next?max=100&timeout=0", {"Accept": events.EVENTS}
    while (answer := http.get(path, headers=accept)).status_code == 200:
        for each in json_parts.elements(answer.content):
            event = json_parts.members(each)
            content_type = str(json.loads(event["datacontenttype"]))
            if "data_base64" in event:
                body = base64.b64decode(json.loads(event["data_base64"]))
            else:
                body = event["data"] if content_type == "application/json" else json.loads(event["data"]).encode()
            copies.append((json.loads(event["id"]), content_type, body))
        http.post(f"/leases/{answer.headers['lease-id']}/ack").raise_for_status()
    assert answer.status_code == 204, answer.text
    return copies


@pytest.mark.slow  # starts processes that take their time
def test_what_is_exported_and_imported_is_equal(command: Commands, gateway: Running, queue: str, tmp_path: Path):
    """Both are killed on the way and continue: each job is there once, with its bytes, type and id."""
    file = tmp_path / "jobs"
    with gateway.client() as http:
        copies = fill(http, queue)
        interrupted(gateway.url, file, "export", queue, str(file))
        lines = file.read_bytes().count(b"\n")
        assert lines
        with file.open("ab") as torn:
            torn.write(b'{"specversion": "1.0", "id"')
        # The lease of a command that was killed lasts a minute.
        until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0, within_s=90)
        done = command("export", queue, str(file), "--append", "--wait", "1")
        assert done.returncode == 0, done.stderr
        assert b"was incomplete and is removed" in done.stderr
        assert len(file.read_bytes().splitlines()) == JOBS
        interrupted(gateway.url, tmp_path / f"jobs.{queue}-2.progress", "import", f"{queue}-2", str(file))
        assert "jobs stored" in command.text("import", f"{queue}-2", str(file))
        taken = (drain if JOBS == SUITE else drain_batches)(http, f"{queue}-2")
        # The jobs that a killed command had in hand come later.
        assert taken == copies if JOBS == SUITE else Counter(taken) == Counter(copies)
        assert drain(http, queue) == []


def test_a_file_goes_there_and_back(command: Commands, http: httpx.Client, queue: str, tmp_path: Path):
    """Every kind of payload, without an interruption; a second import of the file has nothing to do."""
    file = tmp_path / "jobs"
    copies: list[Copy] = []
    for number, (content_type, body) in enumerate(KINDS):
        headers = {"Content-Type": content_type, "ce-specversion": "1.0", "ce-id": f"job {number}"}
        headers |= {"ce-source": "/a", "ce-type": "t", "ce-note": "%22,%22data%22:%C3%BC"}
        http.post(f"/queues/{queue}/jobs", content=body, headers=headers).raise_for_status()
        copies.append((f"job {number}", content_type, body))
    assert command.text("export", queue, str(file), "--max", "3") == f"3 jobs moved to {file}\n"
    assert command.text("export", queue, str(file), "--append") == f"{len(KINDS) - 3} jobs moved to {file}\n"
    assert b"note" in file.read_bytes()
    assert command.text("import", queue, str(file)) == f"{len(KINDS)} jobs stored on {queue}\n"
    again = command.text("import", queue, str(file))
    assert again == f"0 jobs stored on {queue} (the first {len(KINDS)} lines were sent before)\n"
    assert drain(http, queue) == copies

    assert command.text("import", queue, str(file), "--from-start") == f"{len(KINDS)} jobs stored on {queue}\n"
    assert drain(http, queue) == copies


def test_items_of_memcache_clients_among_jobs(
    command: Commands, gateway: Running, http: httpx.Client, queue: str, tmp_path: Path
):
    """Both keep their order and their bytes, and a job is recognized in either form of the gateway's answer."""
    old = b'{"specversion":"1.0","id":"job m","source":"/a","type":"t","time":"2026-01-31T12:00:00Z","data":1}'
    file = tmp_path / "jobs"
    with contextlib.closing(MemcacheClient(f"unix:{broker_socket(gateway)}")) as memcache:
        copies = [*fill(http, queue, len(KINDS)), ("job m", "application/json", b"1")]
        assert memcache.put(queue, old) == b"STORED\r\n"
        shown = http.get(f"/queues/{queue}/next?max=100", headers={"Accept": events.EVENTS})
        assert shown.headers["content-type"] == events.EVENTS
        http.post(f"/leases/{shown.headers['lease-id']}/nack", json={"position": "head", "count": False})
        assert memcache.put(queue, b"\xff raw") == b"STORED\r\n"
    assert command.text("export", queue, str(file)) == f"{len(KINDS) + 2} jobs moved to {file}\n"
    *lines, item = file.read_bytes().splitlines()
    assert json.loads(item)["data_base64"] == base64.b64encode(b"\xff raw").decode()
    before = events.lines_of(shown.content, shown.headers["content-type"])
    assert list(map(events.identity, lines)) == list(map(events.identity, before))
    assert command.text("import", queue, str(file)) == f"{len(KINDS) + 2} jobs stored on {queue}\n"
    taken = drain(http, queue)
    assert [each for each in taken if each[0].startswith("job")] == copies
    assert [each[2] for each in taken][-1] == b"\xff raw"


def test_a_raw_queue_gets_payloads(tmp_path: Path):
    """Each line or event is one job of it, byte for byte, in both directions. What is not an event is reported."""
    (tmp_path / "queues").write_text('[queues.raw]\nformat = "raw"\n[queues.twin]\nformat = "raw"\n')
    bodies = [b'{"n": 1.10}', b"not json", b"\xff\0", b'"text"']
    with running(tmp_path / "data", "--queues", str(tmp_path / "queues")) as gateway:
        command = Commands(gateway.url)
        command.text("put", "raw", "--lines", stdin=b"\n".join(bodies))
        assert command.text("export", "raw", str(tmp_path / "jobs")) == f"4 jobs moved to {tmp_path / 'jobs'}\n"
        with (tmp_path / "jobs").open("ab") as file:
            file.write(
                b'{"id":"j","data":{"a":1}}\n{"id":"t","datacontenttype":"text/plain","data":"x"}\n{"id":"e"}\n['
            )
        done = command("import", "twin", str(tmp_path / "jobs"))
        assert (done.returncode, done.stdout) == (1, b"7 jobs stored on twin, 1 not accepted\n"), done.stderr
        with gateway.client() as http:
            assert drain_raw(http, "twin") == [*bodies, b'{"a":1}', b"x", b""]


@pytest.mark.parametrize(
    ("obstacle", "message"), [("pause", b"is paused"), ("lease", b"other consumers hold 1 job of")]
)
def test_an_export_that_cannot_have_all_jobs(
    command: Commands, http: httpx.Client, queue: str, tmp_path: Path, *, obstacle: str, message: bytes
):
    """It is no success: the queue is paused, or another consumer has a job. A file without jobs does not stay."""
    file = tmp_path / "jobs"
    http.post(f"/queues/{queue}/jobs", content=b"x").raise_for_status()
    if obstacle == "pause":
        http.put(f"/queues/{queue}/pause").raise_for_status()
    else:
        http.get(f"/queues/{queue}/next").raise_for_status()
    done = command("export", queue, str(file))
    assert done.returncode == 5
    assert message in done.stderr
    assert not file.exists()
    assert http.get(f"/queues/{queue}").json()["backlog"] == 1


def test_an_export_of_an_unknown_queue_leaves_no_file(command: Commands, tmp_path: Path):
    """The exit code says that there is no such queue."""
    assert command("export", "no-such-queue", str(tmp_path / "jobs")).returncode == 3
    assert not list(tmp_path.iterdir())


def numbered(*numbers: int) -> str:
    """Lines of events."""
    return "".join(f'{{"specversion":"1.0","id":"{n}","source":"/a","type":"t","data":{n}}}\n' for n in numbers)


def test_another_file_of_the_same_name_is_refused(command: Commands, http: httpx.Client, queue: str, tmp_path: Path):
    """As long as the first one, or longer: nothing of it is left out silently. What was added is imported."""
    file = tmp_path / "day.ndjson"
    file.write_text(numbered(1, 2))
    assert command.text("import", queue, str(file)) == f"2 jobs stored on {queue}\n"
    file.write_text(numbered(1, 2, 3))
    assert command.text("import", queue, str(file)).startswith("1 job stored")
    file.write_text(numbered(4, 5, 6, 7))
    done = command("import", queue, str(file))
    assert done.returncode == 2
    assert b"is not the file that" in done.stderr
    assert command.text("import", queue, str(file), "--from-start") == f"4 jobs stored on {queue}\n"
    assert http.get(f"/queues/{queue}").json()["items"] == 7


def test_what_was_not_accepted_stays_a_failure(command: Commands, queue: str, tmp_path: Path):
    """Also for the command that is run again; a directory is no file."""
    file = tmp_path / "r.ndjson"
    file.write_text(numbered(1) + '{"specversion":"1.0","id":"2"}\n' + numbered(3))
    done = command("import", queue, str(file))
    assert (done.returncode, done.stdout) == (1, f"2 jobs stored on {queue}, 1 not accepted\n".encode())
    again = command("import", queue, str(file))
    before = "(the first 3 lines were sent before, 1 of them not accepted)"
    assert (again.returncode, again.stdout) == (1, f"0 jobs stored on {queue} {before}\n".encode())
    for other in (str(tmp_path), "-", "/dev/null"):
        assert command("import", queue, other).returncode == 2, other


def test_an_import_that_cannot_note_how_far_it_is(command: Commands, http: httpx.Client, queue: str, tmp_path: Path):
    """It stores nothing."""
    file = tmp_path / ("long" * 60)
    file.write_text(numbered(1))
    done = command("import", queue, str(file))
    assert done.returncode == 1
    assert b"cannot be written: File name too long" in done.stderr
    assert http.get(f"/queues/{queue}").status_code == 404


@contextlib.contextmanager
def no_file_grows() -> Iterator[None]:
    """Until the end of the block, and in the processes that are started there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_nothing_is_acked_that_is_not_on_disk(gateway: Running, http: httpx.Client, queue: str, tmp_path: Path):
    """The file cannot grow: the jobs go back to their queue."""
    http.post(f"/queues/{queue}/jobs", content=b"precious").raise_for_status()
    with no_file_grows():
        done = run_process([*COMMAND, "export", queue, str(tmp_path / "jobs")], env=environment(gateway.url))
    assert done.returncode == 1
    assert "File too large; the last jobs are not acked" in done.stderr
    assert http.get(f"/queues/{queue}/next?timeout=5").json()["attempt"] <= 2


def test_lines_that_are_not_accepted_are_reported(command: Commands, http: httpx.Client, queue: str, tmp_path: Path):
    """A torn line and an expired job are named, the others are stored."""
    event = {"specversion": "1.0", "source": "/a", "type": "t"}
    lines = [
        json.dumps({**event, "id": "1", "data": 1}),
        json.dumps({**event, "id": "2", "expires": "2020-01-01T00:00:00Z"}),
        json.dumps({**event, "id": "3", "data": 3}),
        '{"specversion"',
    ]
    (tmp_path / "jobs").write_text("\n".join(lines))
    done = command("import", queue, str(tmp_path / "jobs"))
    assert (done.returncode, done.stdout) == (1, f"2 jobs stored on {queue}, 2 not accepted\n".encode())
    assert b"line 2: invalid-event" in done.stderr
    assert b"line 4: invalid-" in done.stderr
    assert http.get(f"/queues/{queue}").json()["items"] == 2


def test_a_failure_of_the_whole_request_is_reported_once(command: Commands, tmp_path: Path):
    """The name of the queue is wrong for every line: one message, and no line counts as not accepted."""
    (tmp_path / "jobs").write_text(numbered(*range(20)))
    for arguments in (["import", "bad__name"], ["put", "bad__name", "--lines", "--file"]):
        done = command(*arguments, str(tmp_path / "jobs"))
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.count(b"invalid-name") == 1, done.stderr


@pytest.mark.parametrize("number", some([signal.SIGHUP, signal.SIGINT, signal.SIGTERM]))
def test_an_import_that_is_interrupted_says_how_to_continue(
    gateway: Running, http: httpx.Client, queue: str, tmp_path: Path, number: signal.Signals
):
    """It ends after the request under way, and the line that it names is the last one that is stored."""
    file = tmp_path / "jobs"
    file.write_text(numbered(*range(20_000)))
    command = [*COMMAND, "import", queue, str(file)]
    with ForkedProcess(command, stderr=subprocess.PIPE, env=environment(gateway.url)) as process:
        until(lambda: bool(http.get(f"/queues/{queue}?missing=zero").json()["items"]))
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
    stored = http.get(f"/queues/{queue}").json()["items"]
    assert process.returncode == 130
    assert (
        errors == f"kestrel-gateway: interrupted after line {stored}; run the same command again to continue\n".encode()
    )
    assert stored < 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "q", "{file}"], "exists; give --append"),
        (["export", "q", "{file}", "--append"], "is not the file of an export"),
        (["export", "q", "/nonexistent/f"], "cannot be written"),
        (["export", "q", "-"], "- is not a regular file"),
        (["export", "q", "/dev/null"], "/dev/null is not a regular file"),
        (["export", "q", "/"], "/ is a directory"),
        (["export", "q", "{file}x", "--max", "0"], "0 is below the minimum of 1"),
        (["import", "q", "/nonexistent/f"], "cannot be read"),
    ],
)
def test_files_that_are_not_touched(command: Commands, tmp_path: Path, arguments: list[str], message: str):
    """A file of something else is neither overwritten nor continued."""
    (tmp_path / "other").write_text("something else\n")
    done = command(*(each.replace("{file}", str(tmp_path / "other")) for each in arguments))
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert (tmp_path / "other").read_text() == "something else\n"


def test_two_jobs_with_one_id_are_two_jobs():
    """Only two deliveries of the same job are taken for one."""
    one = b'{"id":"1","data":1,"attempt":1}'
    assert events.identity(one) == events.identity(b'{"id":"1","data":1,"attempt":2,"lasterror":"x"}')
    assert events.identity(one) != events.identity(b'{"id":"1","data":2,"attempt":1}')


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"[]", []),
        (b' [ 1.10 ,"a,]\\"[" , {"b": [1, 2]},\n1e400]\n', [b"1.10", b'"a,]\\"["', b'{"b": [1, 2]}', b"1e400"]),
        (b'{"a":1 , "b" : {}}', [b'"a":1', b'"b" : {}']),
        (b"[" * 5000 + b"]" * 5000, [b"[" * 4999 + b"]" * 4999]),
    ],
)
def test_parts_of_json_keep_their_bytes(text: bytes, parts: list[bytes]):
    """Strings may contain what else has a meaning; nothing is converted, and no depth is too deep."""
    assert json_parts.elements(text) == parts


@pytest.mark.parametrize("text", [b"", b"text", b"{", b'{"a":[}', b"[1]", b"{1}"])
def test_what_is_not_an_object(text: bytes):
    """A line of another file is noticed."""
    with pytest.raises(ValueError, match="it is not"):
        json_parts.members(text)
