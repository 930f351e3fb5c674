"""clients/php/supervised.php under Debian's supervisor, by HTTP and by memcached, with the file in deploy/."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.gateway import running
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import HOST, free_port
from tests.lab.processes import children_of
from tests.lab.waiting import until

JOBS = 40
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def programs() -> None:
    """Skips without them, and fails in CI."""
    has_memcached = shutil.which("php") and "memcached" in subprocess.check_output(["php", "-m"], text=True)
    if not (shutil.which("supervisord") and has_memcached):
        reason = "supervisord or PHP with memcached is not installed (.ci/install/php-consumers.sh)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@contextlib.contextmanager
def supervisord(folder: Path, program: str) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "program.conf").write_text(program)
    (folder / "supervisord.conf").write_text(
        f"[supervisord]\nlogfile={folder}/supervisord.log\npidfile={folder}/supervisord.pid\n"
        "[include]\nfiles=program.conf\n"
    )
    command = [shutil.which("supervisord") or "", "-n", "-s", "-c", str(folder / "supervisord.conf")]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": ""})
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("by", ["http", "memcached"])
def test_a_php_consumer(tmp_path: Path, root: Path, by: str) -> None:
    """It is restarted after --max-jobs and after a kill; each job is done, or where failed jobs go; --debug says so."""
    broker = f"{HOST}:{free_port()}"
    with running(tmp_path / "data", "--broker-listen", broker, "--max-attempts", "1") as gateway:
        text = (root / "deploy" / "supervisord" / "php-consumer.conf").read_text()
        changes = {
            "/srv/app/supervised.php": str(root / "clients" / "php" / "supervised.php"),
            "--by=http --max-jobs=1000": f"--by={by} --max-jobs=15 --debug",
            "http://127.0.0.1:8080": gateway.url,
            "127.0.0.1:22133": broker,
            "www-data": getpass.getuser(),
            "/var/log/supervisor": str(tmp_path),
        }
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        log = tmp_path / "php-emails-0.log"
        with supervisord(tmp_path, text) as process, contextlib.closing(MemcacheClient(broker)) as client:
            own_log = tmp_path / "supervisord.log"
            until(own_log.exists)
            until(lambda: "entered RUNNING" in own_log.read_text())
            for pid in [pid for pid, line in children_of(process.pid).items() if "supervised.php" in line]:
                os.kill(pid, signal.SIGKILL)
            until(lambda: "terminated by SIGKILL" in own_log.read_text())
            until(lambda: own_log.read_text().count("entered RUNNING") == 2)
            with gateway.client() as http:
                for number in range(JOBS):
                    mail = {"to": f"user {number}"} if number % 10 else {"nobody": number}
                    http.post("/queues/emails/jobs", json=mail).raise_for_status()

            def is_empty() -> bool:
                emails = client.queues().get("emails")
                return emails is not None and emails["items"] + emails["open_transactions"] == 0

            until(is_empty)
            until(lambda: "ends after 15 jobs" in log.read_text())
            failed = client.queues()["emails-failed" if by == "memcached" else "emails__dead"]["items"]
        lines = [json.loads(line)["to"] for line in log.read_text().splitlines() if line.startswith('{"to"')]
        assert set(lines) == {f"user {number}" for number in range(JOBS) if number % 10}
        assert len(lines) == len(set(lines))
        assert failed == JOBS // 10
        assert "terminated by SIGKILL" in own_log.read_text()
