"""The README's lines for containers: the image is built, runs as its user without a writable file system, and works."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import BASE, COMPOSE, Builder, Container, Image, Network, composed, needed
from tests.deploy.test_compose import show_something, until

pytestmark = pytest.mark.slow  # builds an image; asks the registry of packages


def commands(root: Path, begin: str) -> list[list[str]]:
    """The README's lines that begin so, without their comments, as words."""
    found = re.findall(rf"^    ({begin} .*)$", (root / "README.md").read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


@pytest.fixture(scope="module")
def builder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """A store with the image, built by the README's line."""
    needed(BASE, COMPOSE, "buildah", "ip", "nsenter", "setpriv", "unshare", "curl")
    folder = tmp_path_factory.mktemp("image")
    with Builder(folder) as made:
        (folder / "base").mkdir()
        made.import_base(folder / "base")
        ((_, _, *arguments),) = commands(root, "docker build")
        made.build(arguments, root)
        yield made


@pytest.fixture(scope="module")
def image(builder: Builder) -> Iterator[Image]:
    with builder.mounted("localhost/kestrel-gateway") as mounted:
        yield mounted


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(tmp_path_factory.mktemp("network")) as made:
        yield made


def test_the_image_says_what_it_is(image: Image) -> None:
    """A numeric user that is not root, one volume, a health check, and OCI labels."""
    config = image.config
    assert config["User"] == "10001:10001"
    assert list(config["Volumes"]) == ["/data"]
    assert config["Healthcheck"]["Test"] == ["CMD", "kestrel-gateway", "healthcheck"]
    labels = {name.removeprefix("org.opencontainers.image.") for name in config["Labels"]}
    assert {"title", "version", "description", "source", "licenses"} <= labels


def test_nothing_of_the_build_is_left(root: Path, image: Image) -> None:
    """No build tools and no sources; docs/operations.md says what the image adds to its base."""
    own = image.tree / "opt" / "kestrel-gateway"
    names = {path.name.partition("-")[0] for path in own.glob("lib/python3*/site-packages/*")}
    assert "gateway" in names
    assert not names & {"pip", "setuptools", "wheel"}
    assert not (image.tree / "src").exists()
    assert not (image.tree / "run" / "secrets").exists()
    size = sum(path.lstat().st_blocks * 512 for path in own.rglob("*") if not path.is_symlink())
    said = re.search(r"The image adds (\d+) MB to its\s+base", (root / "docs" / "operations.md").read_text())
    assert said
    assert size / 1e6 == pytest.approx(int(said[1]), rel=0.15)


def started(line: list[str], image: Image, network: Network, folder: Path, **variables: str) -> Container:
    """`docker run` with the options that the README uses, as an engine does it."""
    assert line[:2] == ["docker", "run"]
    volumes, published, rest = {}, [], line[2:]
    while rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "--volume":
            name, target = rest.pop(0).split(":")
            volumes[target] = folder / name
        elif option == "--publish":
            published.append(rest.pop(0))
        else:
            assert option in {"--read-only", "--rm"}, option  # every container here is so
    assert rest == ["kestrel-gateway"]
    assert published == ["127.0.0.1:8080:8080"]  # the port is the same in the network of the container
    command = [*image.config["Entrypoint"], *(image.config.get("Cmd") or ())]
    return Container(image, network, folder / "log", command=command, volumes=volumes, variables=variables)


def test_the_readme_runs_it(root: Path, image: Image, network: Network, tmp_path: Path) -> None:
    """Ready, the README's first job flows, SIGTERM ends it in time, and the next container has its jobs."""
    (line,) = commands(root, "docker run")
    with started(line, image, network, tmp_path) as container:
        until(container, r"ready: http://0\.0\.0\.0:8080")
        check = Container(
            image, network, tmp_path / "check.log", command=["kestrel-gateway", "healthcheck"], volumes={}, variables={}
        )
        with check:
            assert check.wait(30) == 0, check.log.read_text()
        steps = (root / "README.md").read_text().split("## The first job")[1].split("```sh\n")[1].split("```")[0]
        shown = network.shell(steps.replace("/tmp/head", str(tmp_path / "head")))
        assert '"data":{"to": "ada@example.org"}' in shown
        assert shown.count("HTTP/1.1 204") == 2
        network.shell("curl -sf http://127.0.0.1:8080/queues/emails/jobs --data-binary left")
        assert container.stop(10) == 0, "docker stop kills it after 10 s"
    assert container.log.read_text().rstrip().endswith("stopped")
    owners = {
        (path.lstat().st_uid, path.lstat().st_gid) for path in [tmp_path / "kestrel", *(tmp_path / "kestrel").iterdir()]
    }
    assert owners == {(10001, 10001)}
    with started(line, image, network, tmp_path) as container:
        until(container, r"(?s)stopped.*ready: http")
        assert network.shell("curl -sf 'http://127.0.0.1:8080/queues/emails/next?format=raw'") == "left"
        assert container.stop(30) == 0, "after its grace: the job is under a lease"


def test_its_file_system_cannot_be_written(image: Image, network: Network, tmp_path: Path) -> None:
    """The test itself would see that it can: only the volume is writable, and the user is not root."""
    line = "id -u; touch /data/x && echo volume; touch /x /tmp/x /opt/kestrel-gateway/x || echo refused"
    with Container(
        image, network, tmp_path / "log", command=["sh", "-c", line], volumes={"/data": tmp_path / "data"}, variables={}
    ) as container:
        container.wait(30)
    assert [each for each in container.log.read_text().split("\n") if "touch" not in each] == [
        "10001",
        "volume",
        "refused",
        "",
    ]


def until_kestrel_answers(network: Network) -> None:
    """Waits for the gateway's /readyz: the gateway serves before it has reached its Kestrel."""
    deadline_s = time.monotonic() + 120
    while True:
        answer = network.shell(
            "curl -s --max-time 10 -w ' %{http_code}' http://127.0.0.1:8080/readyz || echo ' curl: '$?"
        )
        if answer.endswith(" 200"):
            return
        assert time.monotonic() < deadline_s, answer
        time.sleep(0.2)


def test_the_readme_composes_it(root: Path, image: Image, tmp_path: Path) -> None:
    """`docker compose up` as the README has it, with the image in each service; the first job from outside."""
    assert ["docker", "compose", "up", "--build"] in commands(root, "docker compose")
    with Network(tmp_path, ["kestrel", "gateway"]) as network:
        with composed(root / "docker-compose.yml", image, network, tmp_path) as running:
            until(running["kestrel"], r"listening on \S")
            until(running["gateway"], r"ready: http")
            until_kestrel_answers(network)
            network.shell('curl -sf http://127.0.0.1:8080/queues/mine/jobs --json \'{"to": "ada@example.org"}\'')
            assert '"to": "ada@example.org"' in network.shell(
                "curl -sf 'http://127.0.0.1:8080/queues/mine/next?timeout=30'"
            )
            network.shell("curl -sf -X DELETE http://127.0.0.1:8080/queues/mine")
            show_something(running)
            first = [number for container in running.values() for number in container.first]
            assert len(first) == 2  # the producer and the consumer; the other two have been stopped
        assert [number for number in first if Path(f"/proc/{number}").exists()] == []
