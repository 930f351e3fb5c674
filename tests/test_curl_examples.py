"""Runs every curl example against a live gateway, and against two wrong ones, where each must fail."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.api.keyring import Keyring
from tests.lab import plain
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running, running
from tests.lab.yaml_text import parse_yaml

EXAMPLES = Path(__file__).parent.parent / "clients" / "curl-examples"
CALLS = sorted(path.name for path in EXAMPLES.glob("*.sh") if path.name not in {"lib.sh", "consumer.sh"})
SOME = [*CALLS[:3], *(pytest.param(each, marks=pytest.mark.slow) for each in CALLS[3:])]
"""All of them; those that are slow need an outside program, as the first three do."""
TWICE = CALLS[::8]
LIMIT_S = 60


@pytest.fixture
def yes_man() -> Iterator[str]:
    """The address of a server that answers every request with 200 and an empty object."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address on which no process listens, or can listen, while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def environment(**more: str) -> dict[str, str]:
    """This process' environment without the proxies that could lead curl elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, **more}


def start(example: str, *arguments: str, gateway: str, files: Path, **more: str) -> subprocess.Popen[str]:
    """The example as a running process; its temporary files go below `files`."""
    return subprocess.Popen(
        [str(EXAMPLES / example), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(GATEWAY=gateway, TMPDIR=str(files), **more),
        cwd=files,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what it wrote."""
    try:
        written, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # what the script started holds its output open
        process.communicate()
        raise
    return process.returncode, written


@pytest.mark.parametrize("example", CALLS)
def test_example_works_twice_at_once(example: str, gateway: Running, http: httpx.Client, tmp_path: Path) -> None:
    """Two runs side by side both pass, show what they do, and leave neither a queue nor a file behind.

    On a developer's machine most of them run once.
    """
    runs = 2 if example in TWICE or os.environ.get("CI") else 1
    for process in [start(example, gateway=gateway.url, files=tmp_path) for _ in range(runs)]:
        code, written = finish(process)
        assert code == 0, written
        assert written.startswith("# "), written
        assert f"{gateway.url}/" in written
    assert '"curl-' not in http.get("/queues").text
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module", params=["1", "100"])
def on_kestrel_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway in front of two servers that speak memcache, each with so many open reads for a connection."""
    folder = tmp_path_factory.mktemp("kestrel-servers")
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(BrokerProcess(folder / name, "--fsync", "off", "--max-open-reads", request.param))
            for name in ("one", "two")
        ]
        flags = ["--kestrel", ",".join(each.address for each in servers), "--kestrel-open-reads", request.param]
        yield stack.enter_context(running(folder / "data", *flags))


@pytest.mark.parametrize(
    "example", [pytest.param(each, marks=[] if each == "batch.sh" else pytest.mark.slow) for each in CALLS]
)
def test_example_works_on_kestrel_servers(example: str, on_kestrel_servers: Running, tmp_path: Path) -> None:
    """Jobs are on two servers, and a batch has as many of them as the reads of a connection allow."""
    code, written = finish(start(example, gateway=on_kestrel_servers.url, files=tmp_path))
    assert code == 0, written


@pytest.mark.parametrize("example", SOME)
def test_example_fails_without_a_gateway(example: str, closed_port: str, tmp_path: Path) -> None:
    """If no server listens, every example ends with an exit code other than 0."""
    code, written = finish(start(example, gateway=closed_port, files=tmp_path))
    assert code != 0, written
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("example", SOME)
def test_example_fails_on_wrong_answers(example: str, yes_man: str, tmp_path: Path) -> None:
    """A server that says 200 to everything is not enough for any example."""
    code, written = finish(start(example, gateway=yes_man, files=tmp_path))
    assert code == 1, written
    assert "FAILED: " in written


def test_consumer_works_until_done(gateway: Running, http: httpx.Client, tmp_path: Path) -> None:
    """The consumer gives back the job whose command failed, gets it again, acks all, and stops after JOBS."""
    for number in range(3):
        assert http.post("/queues/consumer-example/jobs", content=b'{"number":%d}' % number).status_code == 201
    # Keeps every delivery; fails at the very first one.
    work = "cat >>seen; echo >>seen; [ -e failed ] || { touch failed; exit 1; }"
    process = start(
        "consumer.sh", "consumer-example", "sh", "-c", work, gateway=gateway.url, files=tmp_path, JOBS="3", PAUSE="0.1"
    )
    code, written = finish(process)
    assert code == 0, written
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert [(each["data"]["number"], each["attempt"]) for each in seen] == [(0, 1), (1, 1), (2, 1), (0, 2)]
    queue = http.get("/queues/consumer-example").json()
    assert (queue["items"], queue["open_reads"]) == (0, 0)
    assert http.delete("/queues/consumer-example").status_code == 200


def test_consumer_finishes_its_job_on_sigterm(gateway: Running, http: httpx.Client, tmp_path: Path) -> None:
    """SIGTERM while the command works: the job is acked, then the consumer ends without taking another."""
    for _ in range(2):
        assert http.post("/queues/consumer-stopped/jobs", content=b"{}").status_code == 201
    os.mkfifo(tmp_path / "go")
    go = os.open(tmp_path / "go", os.O_RDWR)
    work = "cat >/dev/null; echo begun; read line <go"
    process = start("consumer.sh", "consumer-stopped", "sh", "-c", work, gateway=gateway.url, files=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    os.write(go, b"\n")
    code, written = finish(process)
    os.close(go)
    assert code == 0, written
    queue = http.get("/queues/consumer-stopped").json()
    assert (queue["items"], queue["open_reads"]) == (1, 0)
    assert http.delete("/queues/consumer-stopped").status_code == 200


@pytest.mark.parametrize("wrong", ["closed_port", "yes_man"])
def test_consumer_fails_without_a_gateway(wrong: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The consumer gives up in the end where there is no gateway, and at once where something else answers."""
    address = request.getfixturevalue(wrong)
    process = start("consumer.sh", "emails", gateway=address, files=tmp_path, TRIES="2", PAUSE="0.1")
    code, written = finish(process)
    assert code == 1, written


def test_consumer_reads_what_the_other_clients_read(tmp_path: Path) -> None:
    """GATEWAY_URL, GATEWAY_KEY and LEASE_SECONDS work as in the other clients."""
    keyring = Keyring(tmp_path / "keys.toml")
    keyring.add("worker", scopes="produce consume")
    secret = keyring.secrets["worker"]
    with running(tmp_path / "data", "--keys", str(keyring.path)) as gateway:
        with plain.client(base_url=gateway.url, headers={"Authorization": f"Bearer {secret}"}) as http:
            assert http.post("/queues/q/jobs", json=1).status_code == 201
        settings = {"GATEWAY_URL": gateway.url, "GATEWAY_KEY": secret, "LEASE_SECONDS": "7", "JOBS": "1"}
        code, written = finish(start("consumer.sh", "q", gateway="", files=tmp_path, **settings))
    assert code == 0, written
    job = json.loads(written.partition("done: ")[0])
    assert (datetime.fromisoformat(job["lease"]["expires_at"]) - datetime.now(UTC)).total_seconds() <= 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_URL", "127.0.0.1:8080"),
        ("GATEWAY_URL", "http://127.0.0.1:8080/?x="),
        ("GATEWAY_KEY", "two\nlines"),
        ("GATEWAY_KEY", "schlüssel"),
        ("LEASE_SECONDS", "abc"),
        ("LEASE_SECONDS", "5&timeout=0"),
    ],
)
def test_consumer_refuses_a_bad_setting(name: str, value: str, tmp_path: Path) -> None:
    """One line that names the variable, and exit code 1."""
    code, written = finish(start("consumer.sh", "q", gateway="", files=tmp_path, **{name: value}))
    assert code == 1, written
    assert written.startswith(f"{name}: ")
    assert written.count("\n") == 1


@pytest.mark.parametrize("name", ["a b", "{queue}?timeout=0&z=", "{queue}#", "x/../{queue}", "grüße"])
def test_consumer_encodes_the_queue(
    name: str, gateway: Running, http: httpx.Client, queue: str, tmp_path: Path
) -> None:
    """A name that no queue can have is the gateway's to refuse: no other queue is used in its place."""
    assert http.post(f"/queues/{queue}/jobs", json=1).status_code == 201
    process = start("consumer.sh", name.format(queue=queue), gateway=gateway.url, files=tmp_path, JOBS="1")
    code, written = finish(process)
    assert code == 1, written
    assert "invalid-name" in written
    assert http.get(f"/queues/{queue}").json()["items"] == 1


def requests_of(script: str) -> set[tuple[str, str]]:
    """Method and path of each request that curl sends for a script."""
    lines = re.findall(r"(?:^|[ $(])(?:request|curl) (.*)", script.replace("\\\n", " "), re.MULTILINE)
    found = set()
    for line in lines:
        if path := re.search(r"\$GATEWAY(/[^\"\s?]*)", line):
            method = re.search(r"-X (\w+)", line)
            has_body = re.search(r" (?:-d|--data-binary) ", line) is not None
            found.add((method[1] if method else "POST" if has_body else "GET", path[1]))
    return found


def test_every_operation_has_an_example(root: Path) -> None:
    """A script sends a request to each method and path of openapi.yaml."""
    sent = set[tuple[str, str]]().union(*(requests_of((EXAMPLES / name).read_text()) for name in CALLS + ["lib.sh"]))
    paths = parse_yaml((root / "openapi.yaml").read_text())["paths"]
    missing = [
        operation["operationId"]
        for path, methods in paths.items()
        for method, operation in methods.items()
        if method in {"get", "post", "put", "delete", "options"}
        and not any(
            verb == method.upper() and re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)), used)
            for verb, used in sent
        )
    ]
    assert missing == []


def test_readme_lists_every_example() -> None:
    """The README's table has a row for each script, and none for a script that is not there."""
    rows = [line for line in (EXAMPLES / "README.md").read_text().splitlines() if line.startswith("| [")]
    listed = [line.split("]")[0].removeprefix("| [") for line in rows]
    assert sorted(listed) == sorted([*CALLS, "consumer.sh"])
