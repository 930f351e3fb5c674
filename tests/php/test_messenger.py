"""clients/php/messenger with the worker and the retries of the real Symfony Messenger, as Debian packages it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.gateway import Running, running

APP = Path(__file__).parent / "messenger.php"
FRAMEWORK = Path("/usr/share/php/Symfony/Component/Messenger/autoload.php")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def framework() -> None:
    """Skips without it, and fails in CI."""
    if not FRAMEWORK.exists():
        reason = "php-symfony-messenger is not installed (.ci/install/php-consumers.sh)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def app(dsn: str, *arguments: str) -> str:
    done = subprocess.run(["php", str(APP), dsn, *arguments], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dsn(gateway: Running, queue: str, options: str = "wait=1") -> str:
    return f"kestrel-gateway://127.0.0.1:{gateway.port}/{queue}?{options}"


def test_messages_go_there_and_back(gateway: Running, queue: str) -> None:
    """In order, counted, with any characters, and a delayed one last; then the queue is empty."""
    app(dsn(gateway, queue), "send", "later", "1500", "one", "0", "zwei ä \N{SNOWMAN} '\"", "0")
    assert app(dsn(gateway, queue), "count") == "2"
    assert app(dsn(gateway, queue), "consume", "3") == "one\nzwei ä \N{SNOWMAN} '\"\nlater\n"
    assert app(dsn(gateway, queue), "count") == "0"


def test_a_failing_handler_is_retried_by_messenger(gateway: Running, queue: str) -> None:
    """A copy is sent with its delay, and the first one is removed; after the last attempt nothing is left."""
    app(dsn(gateway, queue), "send", "bad", "0")
    assert app(dsn(gateway, queue), "consume", "2") == "bad\nbad\n"
    with gateway.client() as http:
        figures = http.get(f"/queues/{queue}").json()
        assert (figures["items"], figures["open_reads"]) == (0, 0)
        assert http.get(f"/queues/{queue}/dead-letters").json()["items"] == 0


def test_rejected_messages_become_dead_letters_if_that_is_wanted(gateway: Running, queue: str) -> None:
    """With dead_letters=1."""
    app(dsn(gateway, queue), "send", "bad", "0")
    app(dsn(gateway, queue, "wait=1&dead_letters=1"), "consume", "2")
    with gateway.client() as http:
        assert http.get(f"/queues/{queue}/dead-letters").json()["items"] == 2


def test_a_foreign_job_becomes_a_dead_letter(gateway: Running, queue: str) -> None:
    """It cannot be decoded, and does not come again and again."""
    with gateway.client() as http:
        http.post(f"/queues/{queue}/jobs", json={"to": "ada"}).raise_for_status()
        done = subprocess.run(
            ["php", str(APP), dsn(gateway, queue), "consume", "1"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode != 0
        assert http.get(f"/queues/{queue}").json()["items"] == 0
        assert http.get(f"/queues/{queue}/dead-letters").json()["items"] == 1


def test_a_key_and_a_gateway_that_is_away(tmp_path: Path) -> None:
    """The key of the DSN is used; a wrong one, like a gateway that is away, is an exception of the transport."""
    made = subprocess.run(
        [sys.executable, "-m", "gateway", "keys", "new", "--name", "php", "--scope", "produce", "--scope", "consume"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    secret, _, table = made.partition("\n\n")
    (tmp_path / "keys.toml").write_text(table)
    with running(tmp_path / "data", "--keys", str(tmp_path / "keys.toml")) as gateway:
        good = f"kestrel-gateway://{secret}@127.0.0.1:{gateway.port}/mail?wait=1"
        app(good, "send", "one", "0")
        assert app(good, "consume", "1") == "one\n"
        wrong = subprocess.run(
            ["php", str(APP), good.replace(secret, "kg_wrong"), "send", "one", "0"], capture_output=True, text=True
        )
        assert "TransportException" in wrong.stdout + wrong.stderr
        assert "unauthenticated" in wrong.stdout + wrong.stderr
