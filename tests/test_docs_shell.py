"""Every shell line of README.md and docs/: it is run here, or ELSEWHERE says by which test, or why not.

Besides, each line that begins with `kestrel-gateway` has a command and options that exist.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from gateway import cli
from gateway.broker.__main__ import broker
from tests.lab.gateway import Running, running

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = r"(?:kestrel-gateway|curl|make|docker|pip|python3|cp|mv|systemctl|useradd|while|until|for|[A-Z_]+=\S*)"

ELSEWHERE: dict[str, str] = {
    # By another test
    "kestrel-gateway .* --help": "tests/client/test_docs.py",
    "kestrel-gateway --help": "tests/client/test_docs.py",
    "pip install kestrel-gateway": "tests/process/test_package.py",
    "kestrel-gateway serve$": "tests/process/test_package.py",
    "docker (build --tag|run|compose)": "tests/deploy/test_image.py",
    "kestrel-gateway backup ": "tests/maintenance/test_backup.py",
    "kestrel-gateway doctor": "tests/maintenance/test_doctor.py",
    "kestrel-gateway broker (check|compact)": "tests/broker/test_docs.py",
    "kestrel-gateway (import-journal|forward) ": "tests/migration/test_mixed_members.py",
    "kestrel-gateway work ": "tests/work/test_exec.py",
    "while true; do\n  curl -sN": "tests/streams/test_page.py",
    "while true; do\n  curl -s -D": "test_the_consumers_of_the_readme_work",
    "GATEWAY=": "tests/streams/test_page.py",
    "curl -sN ": "tests/streams/test_page.py",
    "(mv data data.lost|cp -a /backups)": "tests/maintenance/test_backup.py",
    "make sbom": "tests/test_supply_chain.py",
    "python3 -m venv /opt/kestrel-gateway": "tests/process/test_package.py",
    "curl .*--unix-socket": "tests/process/test_unix_socket.py",
    # Not at all
    "kestrel-gateway serve .*--(kestrel|allowed|advertise|data)": "it names servers, names or files of the reader",
    "kestrel-gateway serve {3,}": "a picture of the processes",
    r"curl .*/leases/\$LEASE/settle": "it names a job of the reader",
    "make chaos": "it takes minutes; tests/chaos runs its parts",
    "while job=": "it takes jobs until none has come for 20 s",
    ".*kestrel-gateway serve --traces": "it needs a collector",
    "kestrel-gateway broker --data": "it listens on an address of the reader",
    "curl .*/backends/(old|kestrel-b):22133": "it names a server of the reader",
    "pip install 'kestrel-gateway": "an extra of the package, which the locked packages of the tests contain",
    "KESTREL_GATEWAY_AUDIT=1": "it needs a database of vulnerabilities",
    "docker build --build-arg": "it names an image by a digest of the reader",
    "(useradd|cp deploy/systemd|systemctl)": "it changes the machine",
    ".*_COMPLETE=": "tests/client/test_completion.py",
    "kestrel-gateway queues --watch": "it does not end",
}
"""Patterns of the beginnings of lines. A value that begins with `tests/` is the test that runs them."""

NEEDS: dict[str, str] = {
    r"\|\| logger": "logger() { cat; }",
    "jobs.ndjson": "printf '1\\n2\\n' >jobs.ndjson",
    r"\$LEASE/ack": "LEASE=$(kestrel-gateway next emails | jq -r .lease.id)",
    "queue=high": "kestrel-gateway put high 1",
    "clicks": "kestrel-gateway put clicks 1",
    '"high"': "kestrel-gateway put low 1",
    "-X DELETE .*/pause": "kestrel-gateway pause emails",
}
"""What must be there before a line that matches, as a line of the shell."""


Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


@functools.cache
def complete(lines: str) -> bool:
    """Whether the shell wants no further line."""
    return subprocess.run(["bash", "-nc", lines], capture_output=True, check=False).returncode == 0


def statements(page: Path) -> Iterator[str]:
    """The shell's statements that begin with a program, in fenced blocks of `sh` and in indented or unnamed blocks."""
    text = page.read_text()
    fenced = [(found[1], found[2]) for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = [(name, block) for name, block in fenced if name in {"", "sh", "bash"}]
    blocks += [("", textwrap.dedent(block)) for block in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.MULTILINE)]
    for _, block in blocks:
        lines = block.splitlines()
        while lines:
            first = lines.pop(0)
            shown = first.removeprefix("$ ")
            if not re.match(rf"{PROGRAMS}(?: |$)", shown):
                continue
            if first.startswith("$ "):  # its output follows
                yield shown
                break
            while lines and (shown.endswith("\\") or not complete(shown)):
                shown += "\n" + lines.pop(0)
            yield re.sub(r"\s+# .*$", "", shown) if "\n" not in shown else shown


STATEMENTS = list(dict.fromkeys((page.name, statement) for page in PAGES for statement in statements(page)))


def elsewhere(statement: str) -> list[str]:
    """The patterns that it matches."""
    return [pattern for pattern in ELSEWHERE if re.match(pattern, statement, re.DOTALL)]


HERE = [
    pytest.param(each, id=f"{page}: {each.splitlines()[0][:60]}") for page, each in STATEMENTS if not elsewhere(each)
]


def test_each_entry_is_of_a_line_and_names_a_test_that_is_there() -> None:
    """No pattern without a line; what names a test names a file."""
    assert len(STATEMENTS) > 80
    used = {pattern for _, statement in STATEMENTS for pattern in elsewhere(statement)}
    assert set(ELSEWHERE) - used == set()
    for where in ELSEWHERE.values():
        assert not where.startswith("tests/") or (ROOT / where).is_file(), where


@pytest.mark.parametrize(
    "statement", [each for _, each in STATEMENTS if re.match("kestrel-gateway (?!serve {3})", each)]
)
def test_its_command_and_options_exist(statement: str) -> None:
    """click parses the line, and runs nothing."""
    lexer = shlex.shlex(statement.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(itertools.takewhile(lambda word: not word or not set(word) <= set("|&;<>()"), lexer))[1:]
    command: click.Command = cli.cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        command = broker if name == "broker" else command.commands[name]
    if command is broker and words[:1] in (["check"], ["compact"]):
        return
    group = click.Context(cli.cli, **cli.cli.context_settings)  # a command remembers the help option that it has first
    with contextlib.suppress(click.exceptions.Exit):  # --help
        command.make_context("it", words, group).close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("shell") / "data") as one:
        yield one


@pytest.fixture
def shell(gateway: Running, tmp_path: Path) -> Shell:
    """Runs lines with the programs of this checkout, where curl fails on an error's status."""
    variables = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KESTREL_GATEWAY_URL": gateway.url,
        "GATEWAY": gateway.url,
    }
    before = 'curl() { command curl --fail-with-body --max-time 40 "$@"; }; set -euo pipefail; '

    def run(lines: str) -> subprocess.CompletedProcess[str]:
        lines = lines.replace("http://127.0.0.1:8080", gateway.url).replace("/tmp/", f"{tmp_path}/")
        return subprocess.run(
            ["bash", "-c", before + lines],
            capture_output=True, text=True, cwd=tmp_path, env=variables, timeout=90, check=False,
        )  # fmt: skip

    return run


@pytest.mark.slow  # starts a program or two for each line
@pytest.mark.parametrize("statement", HERE)
def test_it_works(gateway: Running, shell: Shell, statement: str) -> None:
    """The line ends without an error, when what it is about is there."""
    needs = [lines for pattern, lines in NEEDS.items() if re.search(pattern, statement)]
    script = "\n".join(
        ['kestrel-gateway put emails \'{"to": "x"}\' >/dev/null', *needs, statement.replace("...;", ":;")]
    )
    with gateway.client() as http:
        http.delete("/queues/emails")  # with the leases of the lines before
    done = shell(script)
    assert done.returncode == 0, (script, done.stdout, done.stderr)


@pytest.mark.slow  # two consumers
@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_consumers_of_the_readme_work(gateway: Running, tmp_path: Path, language: str) -> None:
    """Each loop takes the jobs, gives them to the reader's own work, and acks them."""
    section = (ROOT / "README.md").read_text().split("## A consumer")[1].split("\n## ")[0]
    (loop,) = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    loop = loop.replace("http://127.0.0.1:8080", gateway.url).replace("/tmp/", f"{tmp_path}/")
    if language == "sh":
        (tmp_path / "work").write_text("#!/bin/sh\njq -r .data.to >>done\n")
        (tmp_path / "work").chmod(0o700)
        command = ["bash", "-c", loop]
    else:
        own = "def work(data):\n    with open('done', 'a') as done:\n        print(data['to'], file=done)\n"
        command = [sys.executable, "-c", own + loop]
    with gateway.client() as http:
        http.delete("/queues/emails")
        for number in range(3):
            assert http.post("/queues/emails/jobs", json={"to": str(number)}).status_code == 201
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while (figures := http.get("/queues/emails").json()) and figures["items"] + figures["open_reads"]:
                assert process.poll() is None
                assert time.monotonic() < deadline, figures
                time.sleep(0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
    assert (tmp_path / "done").read_text() == "0\n1\n2\n"
