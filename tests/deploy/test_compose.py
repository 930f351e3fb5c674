"""docker-compose.yml is valid, and its services work together, as processes of this machine."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.containers import COMPOSE, Container, Image, Network, composed, needed, services, told_of
from tests.process.test_containers import image_variables

pytestmark = pytest.mark.slow  # starts four services


@pytest.fixture(autouse=True)
def tools() -> None:
    """What the tests here need."""
    needed(COMPOSE, "ip", "nsenter", "setpriv", "unshare", "curl")


def test_the_file_is_valid(root: Path) -> None:
    """The program of the Compose Specification accepts it, and the services that it names are there."""
    found = services(root / "docker-compose.yml")
    assert list(found) == ["consumer", "gateway", "kestrel", "producer"]
    for service in found.values():
        assert set(service.get("depends_on") or ()) <= set(found)


@pytest.mark.parametrize(("right", "wrong"), [("ports:", "port:"), ("restart: unless-stopped", "restart: 5")])
def test_a_mistake_is_found(root: Path, tmp_path: Path, right: str, wrong: str) -> None:
    """An unknown key, and a value of another type."""
    text = (root / "docker-compose.yml").read_text()
    (tmp_path / "docker-compose.yml").write_text(text.replace(right, wrong))
    with pytest.raises(ValueError, match=f"services.*{wrong.partition(':')[0]}"):
        services(tmp_path / "docker-compose.yml")


def until(container: Container, pattern: str) -> re.Match[str]:
    """What its log says, once it does."""
    deadline = time.monotonic() + 120
    while (found := re.search(pattern, container.log.read_text())) is None:
        assert container.poll() is None, container.log.read_text()
        assert time.monotonic() < deadline, container.log.read_text()
        time.sleep(0.05)
    return found


def show_something(running: dict[str, Container]) -> None:
    """The consumer prints jobs of the producer. Both call the gateway by its name, and each ends at SIGTERM."""
    until(running["gateway"], r"ready: http")
    until(running["consumer"], r'[0-9a-f]{32}: \{"sent": "\d\d:\d\d:\d\d"\}')
    assert "kestrel:22133" in running["gateway"].log.read_text()
    assert running["gateway"].stop(10) == 0
    assert running["kestrel"].stop(10) == 0


def test_its_services_show_something(root: Path, tmp_path: Path) -> None:
    """With the image's variables, and the programs of this checkout."""
    own = Path(sys.executable).parent
    variables = image_variables(root) | {"PATH": f"{own}:/usr/bin:/bin", "PYTHONPATH": str(root)}
    image = Image(
        Path("/"),
        {"Env": [f"{name}={value}" for name, value in variables.items()], "Entrypoint": ["kestrel-gateway"]},
    )
    with Network(tmp_path, ["kestrel", "gateway"]) as network:
        for name in ("kestrel", "gateway"):
            (tmp_path / name).mkdir()
        with composed(root / "docker-compose.yml", image, network, tmp_path) as running:
            show_something(running)


def test_a_failure_shows_what_the_containers_have_said(tmp_path: Path) -> None:
    """The name, the exit code and the log of each."""
    image = Image(Path("/"), {"Env": ["PATH=/usr/bin:/bin"]})
    command = ["sh", "-c", "echo a word; exit 3"]
    with Network(tmp_path) as network:
        with Container(image, network, tmp_path / "log", command=command, volumes={}, variables={}) as container:
            container.wait(60)
            with pytest.raises(AssertionError) as failed, told_of({"kestrel": container}):
                raise AssertionError
    assert failed.value.__notes__ == ["--- kestrel ended with 3:\na word\n"]
