"""The command line: flags and variables become settings; a bad value is one line and exit code 2."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest

from gateway import __version__, cli
from gateway.settings import Settings
from tests.lab.commands import NOWHERE, Commands
from tests.lab.forkserver import ForkedProcess
from tests.lab.lifeline import lifeline, tied


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`kestrel-gateway` with these arguments and variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KESTREL_GATEWAY_")}
    process: subprocess.Popen[str] = ForkedProcess(
        tied("gateway", *arguments),
        stdin=lifeline(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean, **variables},
    )
    with process:
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def in_process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """As `run`, in this process: for commands that end by themselves."""
    done = Commands("http://127.0.0.1:9")(*arguments, stdin=b"", **variables)
    return subprocess.CompletedProcess(arguments, done.returncode, done.stdout.decode(), done.stderr.decode())


def settings(monkeypatch: pytest.MonkeyPatch, *arguments: str, **variables: str) -> Settings:
    """What `serve` would run with."""
    for name, value in variables.items():
        monkeypatch.setenv(f"KESTREL_GATEWAY_{name}", value)
    program = click.Context(cli.cli, **cli.cli.context_settings)  # click keeps the names of a command's help flag
    with cli.serve.make_context("serve", list(arguments), program) as context:
        values = dict(context.params)
    values.pop("app")
    return Settings(**values)


def test_no_flags_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option's default is the field's."""
    assert settings(monkeypatch) == Settings()


def test_help_names_what_an_option_takes() -> None:
    """A share is no number of seconds."""
    text = in_process("serve", "--help").stdout
    assert "--tenant-share FRACTION " in text
    assert "--max-timeout SECONDS " in text


def test_flags_and_variables_reach_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of field, by flag, by variable, and the flag wins."""
    made = settings(
        monkeypatch,
        "--port", "9000", "--kestrel", "a:1", "--kestrel", "b:2", "--max-timeout", "70.5", "--no-auth",
        PORT="9001", WORKERS="3", ALLOWED_HOSTS="a.example, b.example c.example", LOG_FORMAT="json", DATA="/x",
        HOST="0.0.0.0", BROKER_CONFIG="/y.toml", FSYNC="", KESTREL="never:1",
    )  # fmt: skip
    assert made == Settings(
        port=9000,
        kestrel=("a:1", "b:2"),
        max_timeout_s=70.5,
        no_auth=True,
        workers=3,
        allowed_hosts=("a.example", "b.example", "c.example"),
        log_format="json",
        data=Path("/x"),
        host="0.0.0.0",
        broker_config=Path("/y.toml"),
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "abc"),
        ("--port", "-1"),
        ("--port", "1_0"),
        ("--port", "99999"),
        ("--max-timeout", "nan"),
        ("--max-timeout", "inf"),
        ("--max-timeout", "1e9"),
        ("--max-timeout", "-1"),
        ("--max-timeout", ""),
        ("--fsync", "perhaps"),
        ("--workers", "0"),
        ("--host", "0.0.0.0"),
        ("--kestrel", "nonsense"),
        ("--kestrel", "host:99999"),
        ("--kestrel", "::1:22133"),
        ("--broker-listen", "0.0.0.0:22133"),
        ("--broker-listen", "[::]:22133"),
        ("--broker-listen", "queues.example:22133"),
        ("--broker-listen", "22133"),
        ("--broker-listen", "127.0.0.1:x"),
    ],
)
def test_bad_value_is_one_line(flag: str, value: str) -> None:
    """It names the flag, and nothing is started."""
    result = in_process("serve", *NOWHERE, flag, value)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert flag.strip("-") in result.stderr


def test_broker_listen_needs_an_embedded_broker() -> None:
    """With --kestrel there is none: one line, exit code 2."""
    result = in_process("serve", *NOWHERE, "--kestrel", "127.0.0.1:22133", "--broker-listen", "127.0.0.1:22134")
    assert result.returncode == 2
    assert result.stderr == (
        "kestrel-gateway: broker-listen: there is no embedded broker with --kestrel; remove one of the two\n"
    )


def test_broker_listens_beyond_loopback_only_when_told() -> None:
    """The memcache protocol has no authentication: refused in one line without --no-auth, in both commands."""
    for listen in ("0.0.0.0:0", "[::]:0", "nowhere.invalid:0"):
        result = in_process("broker", *NOWHERE, "--listen", "127.0.0.1:0", "--listen", listen)
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1
        assert "the memcache protocol has no authentication" in result.stderr
    for allowed in (["--listen", "0.0.0.0:0", "--no-auth"], ["--listen", "[::1]:0"], ["--listen", "localhost:0"]):
        assert "data directory" in run("broker", *NOWHERE, *allowed).stderr
    Settings(broker_listen="0.0.0.0:1", no_auth=True)
    Settings(broker_listen="localhost:1")


def test_bad_variable_is_one_line() -> None:
    """The same for the environment."""
    result = in_process("serve", *NOWHERE, KESTREL_GATEWAY_PORT="x")
    assert result.returncode == 2
    assert result.stderr == "kestrel-gateway: Invalid value for '--port': 'x' is not a whole number\n"


def test_version_and_help_are_quick() -> None:
    """They are quick in code too: neither imports the server, the application or the broker."""
    assert in_process("--version").stdout == f"kestrel-gateway {__version__}\n"
    assert "serve" in in_process("--help").stdout
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, gateway.cli; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"uvicorn", "starlette", "asyncio", "sqlite3", "gateway.app", "gateway.broker"} & set(loaded)


def test_command_can_come_from_the_environment() -> None:
    """An image's role is a variable; arguments win over it."""
    assert "--listen" in in_process(KESTREL_GATEWAY_COMMAND="broker --help").stdout
    assert in_process("--version", KESTREL_GATEWAY_COMMAND="broker --help").stdout.startswith("kestrel-gateway ")
    assert in_process().returncode == 2


def test_broker_is_the_brokers_own_command() -> None:
    """Its flags, its help, its errors."""
    assert "--listen" in in_process("broker", "--help").stdout
    result = in_process("broker", *NOWHERE, "--listen", "nonsense")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


def test_every_field_has_a_flag_and_help() -> None:
    """Nobody has to read the source to find a setting."""
    assert isinstance(cli.serve, click.Command)
    shown = " ".join(in_process("serve", "--help").stdout.split())
    assert "--kestrel-idle-timeout" in shown
    assert "largest body of one job [default 1048576; 1 to 1073741824 bytes]" in shown


def test_healthcheck_tells_ready_from_not() -> None:
    """0 for a 200, 1 for anything else, without asking a proxy."""

    def answer(status: str) -> str:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

            thread = threading.Thread(target=serve)
            thread.start()
            port = str(listener.getsockname()[1])
            result = in_process("healthcheck", KESTREL_GATEWAY_PORT=port, http_proxy="http://127.0.0.1:1")
            thread.join()
            return f"{result.returncode} {result.stdout or result.stderr}"

    assert answer("200 OK").startswith("0 ")
    assert answer("503 Service Unavailable").startswith("1 ")
    assert in_process("healthcheck", "--url", "http://127.0.0.1:1/").returncode == 1
    assert in_process("healthcheck", "--url", "nonsense").returncode == 1


def test_unknown_variables_are_named_with_the_nearest() -> None:
    """A misspelt setting has no effect, so a line says so. What tests and Kubernetes set is no setting."""
    result = in_process(
        "check",
        KESTREL_GATEWAY_MAX_LEASSE="3",
        KESTREL_GATEWAY_BROKER_DAAT="x",
        KESTREL_GATEWAY_BROKER_FSYNC="off",
        KESTREL_GATEWAY_UNLIKE_ANY="x",
        KESTREL_GATEWAY_URL="http://127.0.0.1:1",
        KESTREL_GATEWAY_TEST_ANY="x",
        KESTREL_GATEWAY_SERVICE_HOST="10.0.0.1",
        KESTREL_GATEWAY_PORT_8080_TCP="tcp://10.0.0.1:8080",
        KESTREL_GATEWAY_PORT="tcp://10.0.0.1:8080",
    )
    of_kubernetes = (
        ", which Kubernetes sets for a Service named kestrel-gateway; set enableServiceLinks: false in the pod, or "
        "rename the Service"
    )
    assert result.stderr.splitlines()[:-1] == [
        f"kestrel-gateway: warning: {line}"
        for line in (
            "KESTREL_GATEWAY_BROKER_DAAT is not a setting and has no effect; did you mean KESTREL_GATEWAY_BROKER_DATA?",
            "KESTREL_GATEWAY_MAX_LEASSE is not a setting and has no effect; did you mean KESTREL_GATEWAY_MAX_LEASE?",
            f"KESTREL_GATEWAY_PORT is 'tcp://10.0.0.1:8080'{of_kubernetes}",
            "KESTREL_GATEWAY_UNLIKE_ANY is not a setting and has no effect",
        )
    ]


def test_check_without_files_says_so() -> None:
    """`no mistakes` would be untrue: nothing was read."""
    result = in_process("check")
    assert (result.returncode, result.stderr) == (
        2,
        "kestrel-gateway: there is nothing to check: give --queues, --keys or both\n",
    )


def commands(command: click.Command, *names: str) -> list[tuple[str, ...]]:
    """The names of every command below this one, and of itself."""
    below = command.commands if isinstance(command, click.Group) else {}
    return [names, *(found for name, each in below.items() for found in commands(each, *names, name))]


def test_every_command_has_a_short_help_flag() -> None:
    """`-h` is the same as `--help`, also for commands of commands."""
    every = [*commands(cli.cli), ("broker", "check")]
    assert len(every) > 15
    for names in every:
        assert in_process(*names, "-h").stdout.startswith("Usage: "), names


def test_flags_of_the_supervisor_are_not_in_the_help() -> None:
    """Only `serve` gives them to its broker."""
    shown = in_process("broker", "--help").stdout
    assert "--data" in shown
    assert "--channel-fd" not in shown
    assert "--worker-socket" not in shown


def test_a_new_key_may_have_a_burst(tmp_path: Path) -> None:
    """The table that is printed is valid, also with large numbers."""
    result = in_process("keys", "new", "--name", "a", "--scope", "consume", "--rate", "1000000", "--burst", "1000000")
    file = tmp_path / "keys.toml"
    file.write_text(result.stdout.partition("\n\n")[2])
    assert in_process("check", "--keys", str(file)).stdout == "no mistakes\n"
    assert "burst = 1000000\n" in file.read_text()
    alone = in_process("keys", "new", "--name", "a", "--scope", "consume", "--burst", "5")
    assert (alone.returncode, alone.stderr) == (
        2, "kestrel-gateway: --burst: needs a rate; add --rate, or remove --burst\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--scope", "foo"], "--scope: 'foo' is not one of produce, consume, admin, observe, operator"),
        (["--scope", "consume", "--queue", "a b"], "--queue: 'a b' is not a pattern"),
        (["--scope", "consume", "--tenant", "a b"], "--tenant: "),
        (["--scope", "consume", "--rate", "1e9"], "Invalid value for '--rate': "),
        (["--scope", "consume", "--name", "a b"], "--name: 'a b' is not 1 to 64"),
    ],
)
def test_a_new_key_with_a_mistake_names_the_flag(flags: list[str], why: str) -> None:
    """Not the table of a file that the caller has not written."""
    result = in_process("keys", "new", "--name", "a", *flags)
    assert result.returncode == 2
    assert result.stderr.startswith(f"kestrel-gateway: {why}"), result.stderr
    assert "keys[" not in result.stderr


def test_a_port_in_use_leaves_nothing_behind(tmp_path: Path) -> None:
    """The line names the flag, and a directory that did not exist before does not exist after."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        data = tmp_path / "data"
        result = run("serve", "--port", port, "--data", str(data))
        assert result.returncode == 1
        assert result.stderr == (
            f"kestrel-gateway: port: cannot listen on 127.0.0.1:{port}: Address already in use; "
            "choose another port with --port\n"
        )
        assert not data.exists()
        data.mkdir()
        (data / "mine").touch()
        assert run("serve", "--port", port, "--data", str(data)).returncode == 1
        assert (data / "mine").exists()
