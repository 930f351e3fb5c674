"""Clients that the usual generators make from openapi.yaml produce and consume jobs with their plain methods."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.generated.clients import CLIENTS, TARGETS, Client
from tests.generated.conftest import Served, lacking
from tests.generated.later import later
from tests.generated.toolchain import INSTALL, PINS

pytestmark = pytest.mark.slow  # an outside program

WITHIN_S = 120.0


class Program:
    """A producer or a consumer at work."""

    def __init__(self, command: list[str | Path], folder: Path) -> None:
        self.command = command
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def check(self) -> None:
        """Waits for its end. Raises AssertionError with what it printed unless it succeeded and printed nothing."""
        try:
            printed, _ = self.process.communicate(timeout=WITHIN_S)
        finally:
            self.process.kill()
        assert (self.process.returncode, printed) == (0, ""), f"{self.command}: {printed[-8000:]}"


def produce_and_consume(client: Client, url: str, queue: str, key: str, count: int) -> None:
    """Runs its producer and its consumer at once; each checks every answer it gets. count: of the jobs in a loop."""
    lacking(client.missing())
    folder = client.made()
    arguments = [url, queue, key, str(count)]
    programs = [Program([*client.command(folder, role), *arguments], folder) for role in ("producer", "consumer")]
    for program in programs:
        program.check()


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_generated_client_can_do_everything(client: Client, served: Served, queue: str):
    """JSON, text, bytes; next, ack, ack-and-next, nack, reject, extend, settle; an empty poll, a problem; many jobs."""
    produce_and_consume(client, served.gateway.url, queue, served.key, count=1000)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_generated_client_before_a_later_gateway(client: Client, embedded: Served, queue: str):
    """A client that is deployed works on when answers have new members."""
    with later(embedded.gateway.url) as url:
        produce_and_consume(client, url, queue, embedded.key, count=20)


def test_the_documented_options_are_those_that_are_tested(root: Path):
    """clients/README.md generates with the same targets and options, and names the same versions."""
    readme = (root / "clients" / "README.md").read_text()
    for target, options in TARGETS.items():
        line = re.search(rf"^generate {target} *(?:--additional-properties (\S+))?$", readme, re.MULTILINE)
        assert line is not None, target
        said = dict(each.split("=") for each in (line[1] or "").split(",") if each)
        assert said == {name: str(value).lower() if value is False else value for name, value in options.items()}
    pins = "".join(path.read_text() for path in PINS.iterdir()) + INSTALL.read_text()
    table = readme[readme.index("### Generated clients") :]
    for version in set(re.findall(r"\d+\.\d+\.\d+", table)):
        assert version in pins
