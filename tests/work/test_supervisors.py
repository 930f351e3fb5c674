"""The files in deploy/, under the real supervisors: workers are restarted when that helps, and no job is lost.

KESTREL_GATEWAY_TEST_WORK_JOBS is the number of jobs under supervisord (120); the workers are killed once for 66 jobs.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.lab.commands import environment
from tests.lab.endpoint import Endpoint, EndpointReply, Posted
from tests.lab.gateway import Running, running
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import HOST, free_port
from tests.lab.processes import children_of
from tests.lab.waiting import LIMIT_S, until

JOBS = int(os.environ.get("KESTREL_GATEWAY_TEST_WORK_JOBS", "120"))
KILLS = max(2, JOBS * 30 // 2000)
PROGRAM = Path(sys.executable).parent / "kestrel-gateway"
QUEUE = "emails"

KINDS = ("fail", "reject", "crash", "killed", "noisy", "hang", "stubborn")
COMMAND = r"""#!/bin/bash
# Behaves as the job says: "kind number".
read -r kind number
echo "$kind $number begins" >&2
case "$kind" in
  ok) echo "$number" >>"$DONE" ;;
  fail) exit 1 ;;
  reject) exit 65 ;;
  crash) kill -SEGV $$ ;;
  killed) kill -KILL $$ ;;
  noisy) head -c 10000000 /dev/zero | tr '\0' x >&2; exit 1 ;;
  hang) sleep 600 ;;
  stubborn) trap '' TERM; while :; do sleep 0.2; done ;;
esac
"""


def needs(*programs: str) -> None:
    """Skips without them, and fails in CI."""
    missing = [each for each in programs if shutil.which(each, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        reason = f"{missing[0]} is not installed (.ci/install/supervisor.sh)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway with its broker, and a folder for a supervisor."""

    gateway: Running
    broker: str
    folder: Path

    def deployed(self, file: Path, options: str, command: str) -> str:
        """The text of a file in deploy/, for this machine: other paths and user, more options, faster."""
        text = file.read_text()
        changes = {
            "/opt/kestrel-gateway/bin/kestrel-gateway": str(PROGRAM),
            "http://127.0.0.1:8080": self.gateway.url,
            "www-data": getpass.getuser(),
            "--timeout 60 --max-jobs 10000": options,
            "/var/log/supervisor": str(self.folder),
        }
        for old, new in changes.items():
            assert old in text or old.startswith("/var"), old
            text = text.replace(old, new)
        if os.geteuid() != 0:
            text = text.replace(f"chpst -u {getpass.getuser()} ", "")  # only root may set a user
        return re.sub(r"--exec /usr/local/bin/work-(emails|%i)", command, text)

    def dead_letters(self) -> dict[str, str]:
        """Takes them all: the text of each job and its reason."""
        client = MemcacheClient(self.broker)
        events = [json.loads(item) for item in client.take_all(f"{QUEUE}__dead")]
        client.close()
        return {event["data"]: event.get("lasterror", "") for event in events}

    def left(self) -> int:
        """The jobs that are neither acked nor dead letters. Delayed ones count as one: their number is unknown."""
        with self.gateway.client() as http:
            figures = http.get(f"/queues/{QUEUE}").json()
        return int(figures["items"] + figures["open_reads"] + (figures.get("delayed") != 0))

    def is_empty(self) -> bool:
        return not self.left()

    def wait_until_empty(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Returns when no job is left, however long that takes, as long as jobs end."""
        fewest = left = self.left()
        ends_s = time.monotonic() + LIMIT_S
        while left:
            assert time.monotonic() < ends_s, f"{left} jobs are left\n{log(self)}"
            meanwhile()
            time.sleep(0.2)
            left = self.left()
            if left < fewest:
                fewest, ends_s = left, time.monotonic() + LIMIT_S

    def put(self, texts: list[str]) -> None:
        with self.gateway.client() as http:
            for begin in range(0, len(texts), 500):
                jobs = [{"data": text, "content_type": "text/plain"} for text in texts[begin : begin + 500]]
                http.post(f"/queues/{QUEUE}/jobs/batch", json={"jobs": jobs}).raise_for_status()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Jobs become dead letters after three attempts, or a few more if a kill of the worker took one."""
    broker = f"{HOST}:{free_port()}"
    with running(tmp_path / "data", "--broker-listen", broker, "--max-attempts", "5") as gateway:
        yield Site(gateway, broker, tmp_path)


@contextlib.contextmanager
def supervisord(site: Site, program: str) -> Iterator[subprocess.Popen[bytes]]:
    """supervisord with a program; it stops the program in the end."""
    needs("supervisord")
    (site.folder / "program.conf").write_text(program)
    (site.folder / "supervisord.conf").write_text(
        f"[supervisord]\nlogfile={site.folder}/supervisord.log\npidfile={site.folder}/supervisord.pid\n"
        f"[include]\nfiles=program.conf\n"
    )
    variables = environment(site.gateway.url, DONE=str(site.folder / "done"))
    command = [shutil.which("supervisord") or "", "-n", "-s", "-c", str(site.folder / "supervisord.conf")]
    process = subprocess.Popen(command, env={**variables, "PYTHONPATH": ""}, cwd=site.folder)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        process.kill()
        process.wait()


def worker_of(supervisor: int) -> int | None:
    """The process id of the one worker, if it runs."""
    return next((pid for pid, line in children_of(supervisor).items() if " work " in line), None)


def log(site: Site) -> str:
    file = site.folder / "supervisord.log"
    return file.read_text() if file.exists() else ""


@pytest.mark.slow
def test_supervisord_with_jobs_of_every_kind(site: Site, root: Path):
    """Jobs fail, crash, hang, are killed, write 10 MB to standard error and ignore SIGTERM, and the worker is killed
    again and again: each ends acked, or as a dead letter with its reason."""
    needs("supervisord")
    script = site.folder / "command"
    script.write_text(COMMAND)
    script.chmod(0o755)
    seldom = max(1, JOBS // 200)
    kinds = ["fail", "reject", "crash", "killed"] * (JOBS // 40) + ["noisy", "hang", "stubborn"] * seldom
    texts = [f"{kind} {number}" for number, kind in enumerate(kinds + ["ok"] * (JOBS - len(kinds)))]
    site.put(texts)
    options = (
        "--timeout 1 --kill-after 0.5 --concurrency 8 --lease 3 --retry-delay 0.1 --max-retry-delay 0.5 --wait 2 "
        f"--max-jobs {max(50, JOBS // 4)}"
    )
    program = site.deployed(
        root / "deploy" / "supervisord" / "kestrel-gateway-worker.conf", options, f"--exec {script}"
    )
    with supervisord(site, program) as process:
        for _ in range(KILLS):
            until(lambda: worker_of(process.pid) is not None)
            time.sleep(1.5)  # longer than startsecs: a worker that is killed sooner counts as one that cannot start
            worker = worker_of(process.pid)
            if worker is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
        site.wait_until_empty()
        until(lambda: worker_of(process.pid) is not None)
    done = (site.folder / "done").read_text().split()
    dead = site.dead_letters()
    wanted = {text for text in texts if text.startswith("ok")}
    acked = {text for text in wanted if text.split()[1] in done}
    assert acked | set(dead) == set(texts), "a job is lost"
    assert {text for text in texts if not text.startswith("ok")} <= set(dead)
    assert all(dead.values()), dead
    reasons = {text.split()[0]: reason for text, reason in dead.items() if text.split()[0] in KINDS}
    assert reasons["reject"].startswith("exit status 65: reject")
    assert "x" * 100 in reasons["noisy"] or "lease" in reasons["noisy"]
    repeated = len(done) - len(set(done))
    assert repeated <= KILLS * 8  # the jobs in hand at each kill
    assert "exit status 0; not expected" in log(site)  # --max-jobs
    assert log(site).count("terminated by SIGKILL; not expected") >= KILLS - 1
    assert f"{PROGRAM} work" not in " ".join(children_of(1).values())


def _has(web: Endpoint, requests: int) -> bool:
    return len(web.posted) >= requests


@pytest.mark.slow
def test_supervisord_with_an_endpoint(site: Site, root: Path):
    """The endpoint is slow, fails, redirects, is away for a while, and accepts jobs that it settles later."""
    needs("supervisord")
    accepted: list[str] = []
    acked: set[str] = set()

    def reply(posted: Posted) -> EndpointReply:
        kind = posted.body.decode().split()[0]
        if kind == "slow":
            time.sleep(0.5)
        if kind == "later":
            accepted.append(posted.headers["lease-url"])
        elif kind in ("ok", "slow"):
            acked.add(posted.body.decode())
        return {
            "later": EndpointReply(202),
            "fail": EndpointReply(500, b"broken"),
            "moved": EndpointReply(307, headers={"Location": "/other"}),
            "gone": EndpointReply(410, b"no such user"),
        }.get(kind, EndpointReply())

    kinds = ("later", "fail", "gone", "slow", "ok", "ok", "ok", "ok")
    texts = [f"{kinds[number % 8]} {number}" for number in range(JOBS)] + ["moved 0"]
    site.put(texts)
    port = free_port()
    options = "--timeout 5 --concurrency 4 --lease 20 --retry-delay 0.1 --max-retry-delay 0.5 --wait 2 --max-jobs 100"
    program = site.deployed(
        root / "deploy" / "supervisord" / "kestrel-gateway-worker.conf", options, f"--to http://127.0.0.1:{port}/hook"
    )
    with supervisord(site, program) as process:
        kills = max(3, KILLS)
        for _ in range(kills):
            with Endpoint(reply, port) as web:
                until(partial(_has, web, JOBS // (2 * kills)))
            time.sleep(1)
            worker = worker_of(process.pid)
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
        with Endpoint(reply, port), site.gateway.client() as http:

            def settle() -> None:
                while accepted:
                    http.post(accepted.pop().removeprefix(site.gateway.url) + "/ack")

            site.wait_until_empty(settle)
    dead = site.dead_letters()
    assert {text for text in texts if text.startswith(("fail", "gone", "moved"))} == {
        text for text in dead if text.startswith(("fail", "gone", "moved"))
    }
    assert dead["moved 0"].startswith("status 307: the redirect to /other is not followed")
    assert all(dead.values())
    wanted = {text for text in texts if text.startswith(("ok", "slow"))}
    assert wanted <= acked | set(dead)


@pytest.mark.slow
def test_supervisord_does_not_restart_a_worker_without_its_command(site: Site, root: Path):
    """It tries a few times, at longer intervals, and gives up; no job is touched."""
    site.put(["ok 1"])
    program = site.deployed(
        root / "deploy" / "supervisord" / "kestrel-gateway-worker.conf", "--wait 2", "--exec /nonexistent/program"
    )
    with supervisord(site, program):
        # It tries at most four times; fewer if Python takes a second to start: then the exit code decides.
        until(lambda: "entered FATAL state" in log(site) or "exit status 127; expected" in log(site))
        assert 1 <= log(site).count("spawned:") <= 4
        with site.gateway.client() as http:
            assert http.get(f"/queues/{QUEUE}/peek").json()["attempt"] == 1


@contextlib.contextmanager
def runsv(site: Site, root: Path, options: str, command: str) -> Iterator[Path]:
    """A service of runit; it is taken down in the end."""
    needs("runsv", "sv", "chpst")
    service = site.folder / "service"
    service.mkdir()
    (service / "run").write_text(site.deployed(root / "deploy" / "runit" / "run", options, command))
    shutil.copy(root / "deploy" / "runit" / "finish", service)
    (service / "run").chmod(0o755)
    process = subprocess.Popen(
        ["runsv", str(service)], env=environment(site.gateway.url, DONE=str(site.folder / "done"))
    )
    try:
        until((service / "supervise" / "ok").exists)
        yield service
    finally:
        subprocess.run(["sv", "-w", "10", "force-shutdown", str(service)], capture_output=True)
        process.kill()
        process.wait()


def status(service: Path) -> str:
    return subprocess.run(["sv", "status", str(service)], capture_output=True, text=True).stdout


@pytest.mark.slow
def test_runit_restarts_a_worker_that_is_killed(site: Site, root: Path):
    """The job in hand comes again; `sv down` lets the worker finish."""
    script = site.folder / "command"
    script.write_text(COMMAND)
    script.chmod(0o755)
    with runsv(site, root, "--wait 2 --lease 3", f"--exec {script}") as service:
        site.put(["ok 1"])
        until(site.is_empty)
        pid = int(re.search(r"\(pid (\d+)\)", status(service))[1])  # type: ignore[index]
        os.kill(pid, signal.SIGKILL)
        site.put(["ok 2"])
        until(site.is_empty)
        until(lambda: (site.folder / "done").read_text().split() == ["1", "2"])
        subprocess.run(["sv", "-w", "20", "down", str(service)], check=True, capture_output=True)
        assert status(service).startswith("down:")


@pytest.mark.slow
def test_runit_takes_a_worker_without_its_command_down(site: Site, root: Path):
    """`finish` knows the exit code."""
    with runsv(site, root, "--wait 2", "--exec /nonexistent/program") as service:
        until(lambda: status(service).startswith("down:"))


@pytest.mark.slow
def test_systemd_accepts_the_unit(root: Path, tmp_path: Path):
    """systemd-analyze has nothing to say about it; a mistake shows that it looks."""
    needs("systemd-analyze")
    text = (root / "deploy" / "systemd" / "kestrel-gateway-worker@.service").read_text()
    text = text.replace("/opt/kestrel-gateway/bin/kestrel-gateway", str(PROGRAM))

    def verify(unit: str) -> str:
        path = tmp_path / "kestrel-gateway-worker@emails.service"
        path.write_text(unit)
        done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60)
        return "".join(line for line in done.stderr.splitlines(True) if "kestrel-gateway" in line)

    assert verify(text) == ""
    assert "KillMod" in verify(text.replace("KillMode", "KillMod"))


def test_the_files_agree_with_the_exit_codes(root: Path):
    """Every file names the exit codes after which a restart does not help, as docs/workers.md does."""
    table = (root / "docs" / "workers.md").read_text().split("## Exit codes")[1].split("\n## ")[0]
    final = set()
    for codes, again in re.findall(r"^\| ([\d, ]+) \|.*\| (\w+).*? \|$", table, re.MULTILINE):
        final |= set(re.findall(r"\d+", codes)) if again == "no" else set()
    assert final == {"2", "4", "126", "127"}
    deploy = root / "deploy"
    (unit,) = re.findall(
        "RestartPreventExitStatus=(.*)", (deploy / "systemd" / "kestrel-gateway-worker@.service").read_text()
    )
    (program,) = re.findall(
        "^exitcodes=(.*)", (deploy / "supervisord" / "kestrel-gateway-worker.conf").read_text(), re.MULTILINE
    )
    (finish,) = re.findall(r"^ +(.*)\) exec sv down", (deploy / "runit" / "finish").read_text(), re.MULTILINE)
    assert set(unit.split()) == set(program.split(",")) == set(finish.split(" | ")) == final
