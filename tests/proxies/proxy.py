"""Real reverse proxies in front of a gateway, run without privileges by the configurations of docs/proxies.md."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.lab import plain
from tests.lab.ports import free_port

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "proxies.md"
HOST = "jobs.example"
PATH = f"{os.environ['PATH']}:/usr/sbin"

NGINX = """daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/1;
    proxy_temp_path {folder}/2;
    fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4;
    scgi_temp_path {folder}/5;
{block}
}}
"""
CADDY = """{{
    admin off
    auto_https off
    default_bind 127.0.0.1
}}
{block}
"""
WRAPPERS = {"nginx": NGINX, "haproxy": "{block}\n", "caddy": CADDY}
COMMANDS = {
    "nginx": ["nginx", "-e", "stderr", "-p", "{folder}", "-c", "{file}"],
    "haproxy": ["haproxy", "-db", "-f", "{file}"],
    "caddy": ["caddy", "run", "--adapter", "caddyfile", "--config", "{file}"],
}


def shown(name: str) -> str:
    """The configuration that the document shows under that name."""
    block = DOCUMENT.read_text().split(f"<!-- {name} -->")[1]
    return re.fullmatch(r"\s*```\w+\n(.*)```\s*", block, re.DOTALL)[1]  # type: ignore[index]


class Proxy:
    """One that runs. port: where clients come to."""

    def __init__(self, port: int) -> None:
        self.port = port

    def client(self) -> httpx.Client:
        return plain.client(base_url=f"http://127.0.0.1:{self.port}", headers={"host": HOST}, timeout=60)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)


@contextlib.contextmanager
def proxied(folder: Path, kind: str, gateway_port: int, block: str) -> Iterator[Proxy]:
    """A proxy of that kind with the configuration `block`: its addresses are made this machine's."""
    program = shutil.which(kind, path=PATH)
    if program is None:
        reason = f"{kind} is not installed (.ci/install/proxies.sh)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    port = free_port()
    here = f"127.0.0.1:{port}"
    block = block.replace("127.0.0.1:8080", f"127.0.0.1:{gateway_port}").replace("listen 80;", f"listen {here};")
    block = block.replace("bind :80\n", f"bind {here}\n").replace(f"http://{HOST} {{", f"http://{HOST}:{port} {{")
    assert str(port) in block
    assert str(gateway_port) in block
    folder.mkdir()
    file = folder / "configuration"
    file.write_text(WRAPPERS[kind].format(folder=folder, block=block))
    command = [each.format(folder=folder, file=file) for each in COMMANDS[kind]]
    # Where the tests are killed the proxy ends as well.
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", program, *command[1:]],
            env={"PATH": PATH, "HOME": str(folder)},
            stdout=log,
            stderr=log,
        )
    try:
        deadline_s = time.monotonic() + 15
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 5):
                break
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{kind} did not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.02)
        yield Proxy(port)
    finally:
        process.kill()
        process.wait(10)
