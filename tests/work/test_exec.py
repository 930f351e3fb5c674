"""`work --exec`: a command for each job, and what its exit status means for the job."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from gateway.work.own_queue import own_queue
from tests.lab.commands import Commands
from tests.lab.gateway import Running
from tests.lab.holding import HoldingProxy
from tests.lab.ports import free_port
from tests.lab.waiting import undisturbed, until
from tests.lab.work import WorkProcess
from tests.work.conftest import Put, Start

AT_ONCE = ("--retry-delay", "0", "--wait", "2")


def waiting_polls(http: httpx.Client, queue: str) -> int:
    """How many polls wait at the broker."""
    return http.get(f"/queues/{queue}?missing=zero").json()["waiters"]


def test_the_exit_status_decides(start: Start, put: Put, queue: str, rest, dead):
    """0 acks; 65 and 100 make dead letters; everything else and every signal comes again, with its reason."""
    statuses = ["0", "65", "100", "75", "111", "1", "2", "255"]
    put(*statuses, "signal")
    script = 'read -r n; echo "say $n" >&2; [ "$n" = signal ] && kill -SEGV $$; exit "$n"'
    worker = start(queue, *AT_ONCE, "--max-jobs", "9", "--exec", "bash", "-c", script)
    assert worker.wait() == 0
    assert rest() == {
        **{each: (2, f"exit status {each}: say {each}") for each in ("75", "111", "1", "2", "255")},
        "signal": (2, "killed by SIGSEGV: say signal"),
    }
    assert dead() == {each: f"exit status {each}: say {each}" for each in ("65", "100")}


def test_a_command_that_cannot_run_stops_the_worker(start: Start, put: Put, queue: str, rest):
    """The shell's 126 and 127: the job goes back to the head, uses up no attempt, and the worker ends with the code."""
    put("one", "two")
    for code in (126, 127):
        worker = start(queue, *AT_ONCE, "--exec", "sh", "-c", f"exit {code}")
        assert worker.wait() == code
        assert f"exit status {code}: the command cannot run" in worker.text()
    assert {job: attempt for job, (attempt, _) in rest().items()} == {"one": 1, "two": 1}


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("no-such-program", 127, "no-such-program was not found"),
        ("/nonexistent/program", 127, "/nonexistent/program was not found"),
        ("sleep 1", 127, "sleep 1 was not found; no shell is used"),
        ("/etc/passwd", 126, "/etc/passwd is not executable"),
    ],
)
def test_a_missing_command_takes_no_job(  # noqa: PLR0917 (fixtures)
    start: Start, put: Put, queue: str, rest, command: str, code: int, message: str
):
    """It is looked for before a job is taken, so no attempt is used up, however often a supervisor starts it."""
    put("job")
    worker = start(queue, "--exec", command)
    assert worker.wait() == code
    assert message in worker.text()
    assert rest() == {"job": (1, "")}


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("#!/nonexistent/interpreter\n", 127, "the interpreter that its first line names was not found"),
        ("no program at all", 126, "is not executable"),
    ],
    ids=["interpreter", "format"],
)
def test_a_file_that_is_no_program(  # noqa: PLR0917 (fixtures)
    start: Start, put: Put, queue: str, rest, tmp_path: Path, text: str, code: int, message: str
):
    """It is found only when it is to run: the job goes back, and the worker ends."""
    (tmp_path / "program").write_text(text)
    (tmp_path / "program").chmod(0o755)
    put("job")
    worker = start(queue, "--exec", str(tmp_path / "program"))
    assert worker.wait() == code
    assert message in worker.text()
    assert list(rest()) == ["job"]


def test_the_command_gets_the_job(start: Start, http: httpx.Client, queue: str, tmp_path: Path):
    """Its bytes on standard input, and its attributes in the environment."""
    body = os.urandom(200_000)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {
        "Content-Type": "image/png",
        "traceparent": trace,
        "ce-specversion": "1.0",
        "ce-id": "photo 17",
        "ce-source": "/camera",
        "ce-type": "org.example.photo",
        "ce-place": "K%C3%B6ln",
    }
    http.post(f"/queues/{queue}/jobs", content=body, headers=headers).raise_for_status()
    script = "env -0 >environment; cat >job"
    worker = start(
        queue, "--max-jobs", "1", "--timeout", "60", "--exec", "sh", "-c", f"cd {tmp_path}; {script}", ce_stale="old"
    )
    assert worker.wait() == 0
    assert (tmp_path / "job").read_bytes() == body
    lines = (tmp_path / "environment").read_text().split("\0")
    variables = dict(line.split("=", 1) for line in lines if line)
    deadline = variables.pop("KESTREL_JOB_DEADLINE")
    assert (
        time.strftime("%Y-%m-%dT%H:%M", time.gmtime())
        <= deadline
        < time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 61))
    )
    expected = {
        "KESTREL_JOB_ID": "photo 17",
        "KESTREL_JOB_QUEUE": queue,
        "KESTREL_JOB_ATTEMPT": "1",
        "KESTREL_JOB_CONTENT_TYPE": "image/png",
        "TRACEPARENT": trace,
        "ce_id": "photo 17",
        "ce_source": "/camera",
        "ce_type": "org.example.photo",
        "ce_place": "Köln",
    }
    assert {name: variables.get(name) for name in expected} == expected
    assert "ce_stale" not in variables


def test_an_item_that_no_gateway_stored(start: Start, tmp_path: Path):
    """The bytes of a memcache client arrive as they are; it has no id."""
    from tests.lab.gateway import running
    from tests.lab.memcache import MemcacheClient

    port = free_port()
    with running(tmp_path / "data", "--broker-listen", f"127.0.0.1:{port}") as gateway:
        client = MemcacheClient(f"127.0.0.1:{port}", 5)
        assert client.put("mails", b"\xff\x00\xfe").startswith(b"STORED")
        client.close()
        script = f'cat >{tmp_path}/job; echo "$KESTREL_JOB_ID|$KESTREL_JOB_ATTEMPT" >{tmp_path}/id'
        assert start("mails", "--max-jobs", "1", "--exec", "sh", "-c", script, url=gateway.url).wait() == 0
    assert (tmp_path / "job").read_bytes() == b"\xff\x00\xfe"
    assert (tmp_path / "id").read_text() == "|1\n"


@undisturbed(0.2)
def test_the_lease_is_extended_while_the_command_runs(start: Start, put: Put, queue: str, http: httpx.Client):
    """A command that takes twice the lease keeps its job."""
    http.delete(f"/queues/{queue}")  # of an attempt before
    put("job")
    worker = start(queue, "--lease", "1", "--max-jobs", "1", "--debug", "--exec", "sleep", "2.2")
    assert worker.wait() == 0
    assert worker.text().count("lease extended") >= 3
    assert "acked" in worker.text()
    figures = http.get(f"/queues/{queue}").json()
    assert (figures["items"], figures["open_reads"], figures["total_items"]) == (0, 0, 1)


def test_a_command_that_ignores_sigterm_is_killed_after_its_time(start: Start, put: Put, queue: str, rest):
    """--timeout: SIGTERM, then SIGKILL for the whole group; the job comes again with the reason."""
    put("job")
    script = "trap '' TERM; echo working >&2; sh -c 'trap \"\" TERM; sleep 60'"
    began_s = time.monotonic()
    worker = start(
        queue, *AT_ONCE, "--timeout", "0.5", "--kill-after", "0.5", "--max-jobs", "1", "--exec", "sh", "-c", script
    )
    assert worker.wait() == 0
    assert time.monotonic() - began_s < 15
    assert rest() == {"job": (2, "the command ran longer than 0.5 s (--timeout): working")}


def test_two_megabytes_of_standard_error(start: Start, put: Put, queue: str, dead):
    """All of it is passed on, and the end is the reason."""
    put("job")
    script = "head -c 2000000 /dev/zero | tr '\\0' x >&2; echo ' the end' >&2; exit 100"
    worker = start(queue, "--max-jobs", "1", "--exec", "sh", "-c", script)
    assert worker.wait() == 0
    assert worker.text().count("x") >= 2_000_000
    reason = dead()["job"]
    assert reason.startswith("exit status 100: …x")
    assert reason.endswith("x the end")
    assert len(reason) == 1000


def test_a_background_process_does_not_hold_the_worker(start: Start, put: Put, queue: str, http: httpx.Client):
    """The command has ended, though something that it started still has its standard error open."""
    put("job")
    worker = start(queue, "--max-jobs", "1", "--exec", "sh", "-c", "sleep 60 & exit 0")
    began_s = time.monotonic()
    until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0 and worker.process.poll() is not None)
    assert time.monotonic() - began_s < 30


def test_concurrency_is_the_number_of_commands_at_a_time(start: Start, put: Put, queue: str, tmp_path: Path):
    """Never more, and as many as there are jobs for."""
    put(*"abcdefgh")
    script = f'echo "+" >>{tmp_path}/log; sleep 0.4; echo "-" >>{tmp_path}/log'
    worker = start(queue, "--concurrency", "4", "--max-jobs", "8", "--exec", "sh", "-c", script)
    assert worker.wait() == 0
    running, most = 0, 0
    for line in (tmp_path / "log").read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert (most, running) == (4, 0)


@pytest.mark.parametrize("limit", ["--max-time", "--max-memory"])
@undisturbed(0.2)
def test_limits_end_the_worker_between_jobs(
    start: Start, put: Put, queue: str, *, http: httpx.Client, limit: str, rest
):
    """The job in hand is finished and acked; the others stay."""
    http.delete(f"/queues/{queue}")  # of an attempt before
    put("one", "two", "three")
    worker = start(queue, limit, "1", "--exec", "sleep", "1.5")
    assert worker.wait() == 0
    assert 1 <= len(rest()) <= 2
    assert limit in worker.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_finishes_the_job_in_hand(start: Start, put: Put, queue: str, rest, number: signal.Signals):
    """And takes no other; the exit code is 0. So does the end of a terminal."""
    put("one", "two")
    worker = start(queue, "--debug", "--exec", "sh", "-c", "sleep 1; echo finished >&2")
    worker.wait_for_log("process [0-9]+ runs")
    worker.send(number)
    assert worker.wait() == 0
    assert worker.text().count("finished") == 1
    assert rest() == {"two": (1, "")}


def test_sigterm_ends_a_poll_at_once(start: Start, queue: str, http: httpx.Client, put: Put, rest):
    """A worker that waits for a job ends at once, and a job that comes later is not given to it."""
    worker = start(queue, "--exec", "true")
    until(lambda: waiting_polls(http, queue) > 0)
    began_s = time.monotonic()
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert time.monotonic() - began_s < 15, "its poll takes 20 s"
    put("job")
    assert rest() == {"job": (1, "")}


def test_a_job_that_comes_when_the_worker_stops_goes_back(start: Start, gateway: Running, put: Put, rest, queue: str):
    """The answer with the job is under way when the signal comes: the job is takeable at once, as its first attempt."""
    put("job")
    workers: list[WorkProcess] = []

    def stop() -> None:
        until(lambda: bool(workers))
        workers[0].send(signal.SIGTERM)
        workers[0].wait_for_log("stops taking jobs")

    with HoldingProxy(gateway.url, stop) as proxy:
        workers.append(start(queue, "--exec", "false", url=proxy.url))
        assert workers[0].wait() == 0
    assert rest() == {"job": (1, "")}
    assert "given back: the job came after the worker had stopped" in workers[0].text()


def test_sigquit_gives_the_job_back(start: Start, put: Put, queue: str, rest):
    """The command ends, and its job is takeable at once."""
    put("job")
    worker = start(queue, "--debug", "--exec", "sleep", "60")
    worker.wait_for_log("process [0-9]+ runs")
    worker.send(signal.SIGQUIT)
    assert worker.wait() == 0
    assert {job: attempt for job, (attempt, _) in rest().items()} == {"job": 1}


def test_a_second_interrupt_gives_the_job_back(start: Start, put: Put, queue: str, rest):
    """Ctrl-C twice, as people do."""
    put("job")
    worker = start(queue, "--debug", "--exec", "sleep", "60")
    worker.wait_for_log("process [0-9]+ runs")
    worker.send(signal.SIGINT)
    worker.wait_for_log("a second SIGINT gives")
    worker.send(signal.SIGINT)
    assert worker.wait() == 0
    assert list(rest()) == ["job"]


def test_sigusr2_pauses_and_sigcont_continues(start: Start, put: Put, queue: str, http: httpx.Client):
    """A paused worker takes nothing, also not by a poll that waits."""
    worker = start(queue, "--exec", "true")
    until(lambda: waiting_polls(http, queue) > 0)
    worker.send(signal.SIGUSR2)
    worker.wait_for_log("paused")
    put("job")
    until(lambda: waiting_polls(http, queue) == 0)  # the last poll ends soon, and gives back what it gets
    until(lambda: http.get(f"/queues/{queue}").json()["items"] == 1)
    worker.send(signal.SIGCONT)
    until(lambda: http.get(f"/queues/{queue}").json()["items"] == 0)


def test_a_command_that_has_just_begun_ends_with_its_worker(start: Start, put: Put, queue: str, rest, tmp_path: Path):
    """The command itself kills the worker in its first step: the guard knows it nevertheless."""
    put("job")
    mark = tmp_path / "pid"
    script = f"kill -9 $PPID; trap '' TERM; echo $$ >{mark}.new; mv {mark}.new {mark}; while :; do sleep 1; done"
    worker = start(queue, "--lease", "2", "--kill-after", "0.5", "--exec", "sh", "-c", script)
    assert worker.wait() == -signal.SIGKILL
    until(mark.exists)
    until(lambda: not Path(f"/proc/{mark.read_text().strip()}").exists())
    until(lambda: list(rest()) == ["job"])


def test_commands_end_with_a_worker_that_is_killed(start: Start, put: Put, queue: str, rest, tmp_path: Path):
    """kill -9 of the worker: its command ends soon, also if it ignores SIGTERM, and the job comes again."""
    put("job")
    script = f"trap '' TERM; echo $$ >{tmp_path}/pid; while :; do sleep 0.1; done"
    worker = start(queue, "--lease", "2", "--kill-after", "0.5", "--debug", "--exec", "sh", "-c", script)
    until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text().strip()))
    pid = int((tmp_path / "pid").read_text())
    worker.send(signal.SIGKILL)
    worker.wait()
    until(lambda: not Path(f"/proc/{pid}").exists())
    until(lambda: list(rest()) == ["job"])


def test_a_gateway_that_is_away_is_waited_for(start: Start, queue: str, tmp_path: Path):
    """The worker starts before it, outlives a restart of it, and uses little CPU meanwhile."""
    port = free_port()
    worker = start(queue, "--wait", "1", "--exec", "cat", url=f"http://127.0.0.1:{port}")
    until(lambda: worker.text().count("no-answer") >= 4)
    pauses = [float(text) for text in re.findall(r"no-answer.*next try in ([0-9.]+) s", worker.text())[:4]]
    longest = (0.2, 0.4, 0.8, 1.6)
    assert all(most / 2 - 0.05 <= pause <= most + 0.05 for pause, most in zip(pauses, longest, strict=True)), pauses
    gateway = Running(tmp_path / "data", port=port)
    try:
        with gateway.client() as http:
            http.post(f"/queues/{queue}/jobs", content=b"first").raise_for_status()
        worker.wait_for_log("first")
        gateway.kill()
        gateway.start()
        with gateway.client() as http:
            http.post(f"/queues/{queue}/jobs", content=b"second").raise_for_status()
        worker.wait_for_log("second")
        assert worker.process.poll() is None
    finally:
        gateway.kill()


def test_what_is_away_when_max_time_comes_is_no_success(start: Start, queue: str, put: Put, rest):
    """The worker waits for the gateway or the endpoint until then, and ends with 5: its starter learns that no job was
    done."""
    put("job")
    nobody = f"http://127.0.0.1:{free_port()}"
    without_gateway = start(queue, "--max-time", "2", "--exec", "true", url=nobody)
    without_endpoint = start(queue, "--max-time", "2", "--to", nobody)
    for worker in (without_gateway, without_endpoint):
        assert worker.wait() == 5
        assert re.search(f"exit code 5 at the end of --max-time: .*{re.escape(nobody)}", worker.text())
    assert rest() == {"job": (1, "")}


def test_a_gateway_that_answers_no_connection_is_away(start: Start, queue: str):
    """As behind a firewall: --max-time comes before the attempt to connect fails, which the worker waits for."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        with contextlib.suppress(TimeoutError):
            while True:  # until the kernel drops what comes
                stack.enter_context(socket.create_connection(full.getsockname(), 0.3))
        worker = start(queue, "--max-time", "3", "--exec", "true", url=f"http://127.0.0.1:{full.getsockname()[1]}")
        assert worker.wait() == 5
    assert re.search("exit code 5 at the end of --max-time: no-answer: .*: no answer in time", worker.text())


def test_a_gateway_that_does_not_answer_polls_is_away(start: Start, queue: str):
    """It takes them, and hangs: the last poll ends with --max-time, when a gateway that runs would answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        workers = [start(queue, "--max-time", "2", "--wait", wait, "--exec", "true", url=url) for wait in ("1", "20")]
        assert [worker.wait() for worker in workers] == [5, 5]


def test_a_signal_ends_a_worker_that_waits_for_its_gateway(start: Start, queue: str):
    """Whoever stops it needs no failure; nor is a queue without jobs one at the end of --max-time."""
    worker = start(queue, "--exec", "true", url=f"http://127.0.0.1:{free_port()}")
    worker.wait_for_log("no-answer")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    limits = ("0.01", "0.3", "1")
    workers = [start(queue, "--max-time", limit, "--concurrency", "3", "--exec", "true") for limit in limits]
    assert [worker.wait() for worker in workers] == [0, 0, 0]


def test_a_settlement_is_repeated_until_it_is_certain(start: Start, queue: str, tmp_path: Path):
    """The gateway restarts while the command runs: the lease is gone, the log says so, and the job is done again."""
    gateway = Running(tmp_path / "data")
    try:
        with gateway.client() as http:
            http.post(f"/queues/{queue}/jobs", content=b"job").raise_for_status()
            worker = start(queue, "--wait", "1", "--debug", "--exec", "sh", "-c", "sleep 1", url=gateway.url)
            worker.wait_for_log("process [0-9]+ runs")
            gateway.kill()
            worker.wait_for_log("ack not sent: no-answer")
            gateway.start()
            worker.wait_for_log("ack came too late, so the job (may|will) be repeated")
            worker.wait_for_log("attempt [12].*\n(.*\n)*.*acked")
            until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0)
            assert http.get(f"/queues/{queue}").json()["items"] == 0
    finally:
        gateway.kill()


def test_a_lease_that_is_lost_is_reported(start: Start, put: Put, queue: str, http: httpx.Client):
    """Its queue was deleted: the command is let finish, nothing is settled, and the worker goes on."""
    put("job")
    worker = start(queue, "--lease", "1", "--debug", "--exec", "sh", "-c", "sleep 1.2")
    worker.wait_for_log("process [0-9]+ runs")
    http.delete(f"/queues/{queue}").raise_for_status()
    worker.wait_for_log("the lease is lost, so the job will be repeated: queue-deleted")
    worker.wait_for_log("ack came too late")
    put("next")
    worker.wait_for_log("acked")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exec", "true"], "no queue is given"),
        (["q"], "give either --exec COMMAND, as the last option, or --to URL"),
        (["q", "--exec"], "give either --exec COMMAND, as the last option, or --to URL"),
        (["q", "--to", "http://x", "--exec", "true"], "give either --exec COMMAND, as the last option, or --to URL"),
        (["q", "--to", "localhost:80"], "'localhost:80' is not a URL"),
        (["q", "--to", "http://user:p@localhost:80x/jobs"], "is not a URL"),
        (["q", "--to", "http://localhost/?a=\x01"], "is not a URL"),
        (["q", "--to", "http://user:\x7f@localhost/"], "is not a URL"),
        (["q", "--concurrency", "0", "--exec", "true"], "0 is below the minimum of 1"),
        (["q", "--lease", "0.5", "--exec", "true"], "0.5 is not between 1 and 43200"),
        (["q", "--wait", "0", "--exec", "true"], "0 is below the minimum of 1 second"),
        (["q", "--wait", "1000", "--exec", "true"], "wait: 1000 is above the maximum of 45 seconds"),
        (["q", "--exec", ""], "exec: the name of the command is empty"),
        (["q", "--exec", "--"], "give either --exec COMMAND, as the last option, or --to URL"),
        (["q", "--batch", "101", "--exec", "true"], "101 is not between 1 and 100"),
        (["q", "p", "--batch", "2", "--exec", "true"], "a batch comes from one queue"),
        (
            ["q", "--max-retry-delay", "2592001", "--exec", "true"],
            "2592001 is above the maximum of 2592000 seconds",
        ),
        (["q", "--retry-delay", "600", "--exec", "true"], "600 is above --max-retry-delay, which is 300"),
        (["q", "--reject-on", "200", "--to", "http://x"], "'200' is not a status from 400 to 599"),
    ],
)
def test_wrong_arguments(gateway: Running, arguments: list[str], message: str):
    """One line, and exit code 2."""
    done = Commands(gateway.url)("work", *arguments)
    assert done.returncode == 2
    assert message in done.stderr.decode()


def test_an_endpoint_that_is_the_queue_itself(gateway: Running, queue: str):
    """Every job would come back for ever; another queue of the same gateway is an endpoint like others."""
    for url in (gateway.url, gateway.url.replace("127.0.0.1", "localhost")):
        done = Commands(gateway.url)("work", "other", queue, "--to", f"{url}/queues/{queue}/jobs")
        assert done.returncode == 2
        assert f"would put the jobs back on {queue}" in done.stderr.decode()
    assert own_queue(f"{gateway.url}/queues/another/jobs", gateway.url, [queue]) == ""
    assert own_queue(f"http://127.0.0.1:{free_port()}/queues/{queue}/jobs", gateway.url, [queue]) == ""
    assert own_queue(f"{gateway.url}/jobs/queues/a%2Bb/jobs/batch", f"{gateway.url}/jobs", ["a+b"]) == "a+b"


def test_a_gateway_that_refuses_the_first_poll(start: Start, gateway: Running):
    """A wrong name, like a wrong key, is a mistake of whoever started the worker: exit code 4."""
    worker = start("bad__name", "--exec", "true")
    assert worker.wait() == 4
    assert "invalid-name" in worker.text()


def test_a_paused_queue_costs_little(start: Start, put: Put, queue: str, http: httpx.Client, rest):
    """The worker polls at its pace, takes nothing, and goes on when the pause ends."""
    put("job")
    http.put(f"/queues/{queue}/pause").raise_for_status()
    worker = start(queue, "--wait", "1", "--max-jobs", "1", "--exec", "false")
    worker.wait_for_log("polls .* for jobs of")
    began_s = worker.cpu_s()
    time.sleep(2)
    assert worker.cpu_s() - began_s < 0.5
    assert "failed" not in worker.text()
    http.delete(f"/queues/{queue}/pause").raise_for_status()
    assert worker.wait() == 0
    until(lambda: rest() == {"job": (2, "exit status 1")})


def test_of_several_queues_the_first_that_has_a_job(start: Start, http: httpx.Client, queue: str):
    """One worker for all of them, in the order of preference; the command learns which queue it is."""
    names = [f"{queue}-high", f"{queue}-low"]
    for name in reversed(names):
        for _ in range(2):
            http.post(f"/queues/{name}/jobs", content=b"x").raise_for_status()
    script = 'echo "from $KESTREL_JOB_QUEUE" >&2'
    worker = start(names[0], "--queue", names[1], "--max-jobs", "4", "--exec", "sh", "-c", script)
    assert worker.wait() == 0
    taken = [line.removeprefix("from ") for line in worker.text().splitlines() if line.startswith("from ")]
    assert taken == [names[0], names[0], names[1], names[1]]
