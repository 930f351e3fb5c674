"""Containers without an engine: images built by buildah, run by chroot, with namespaces of their own.

A container has its own process, mount and network namespaces, a file system that cannot be written but for its volumes,
and the image's user and variables. Services of one compose file share a network, and know each other by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from tests.lab.processes import children_of

CACHE = Path.home() / ".cache" / "kestrel-gateway"
BASE, COMPOSE = CACHE / "image" / "base.tar.gz", CACHE / "compose" / "compose-config"
TIED = ("setpriv", "--pdeathsig", "KILL")
"""Ends a process when the tests end."""

# Arguments: the tree, the user, the hosts file, the volumes as SOURCE=TARGET up to `--`, and the command.
_START = """
set -eu
tree=$1 user=$2 hosts=$3; shift 3
if [ "$tree" != / ]; then
  mount --bind "$tree" "$tree"
  mount -t proc proc "$tree/proc"
  mount --rbind /dev "$tree/dev"
fi
mount --bind "$hosts" "$tree/etc/hosts"
while [ "$1" != -- ]; do mount --bind "${1%%=*}" "$tree/${1##*=}"; shift; done; shift
[ "$tree" = / ] && exec "$@"
mount -o remount,ro,bind "$tree"
exec chroot --userspec="$user" "$tree" "$@"
"""


def needed(*programs: str | Path) -> None:
    """Skips without them, and fails in CI, where .ci/install has installed them."""
    missing = [str(each) for each in programs if not (Path(each).exists() if "/" in str(each) else shutil.which(each))]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        reason = f"containers need {', '.join(missing)} (.ci/install/image.sh, .ci/install/compose.sh)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@dataclass(frozen=True, slots=True)
class Image:
    """What runs in a container. tree: `/` for this machine's own. config: of the image, as its specification has it."""

    tree: Path
    config: Mapping[str, Any]

    @property
    def user(self) -> str:
        return str(self.config.get("User", ""))

    @property
    def variables(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.config.get("Env", ()))


class Builder:
    """buildah with a store of its own in the folder, which is removed in the end: it holds some 700 MB."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = ("buildah", "--root", str(folder / "store"), "--runroot", str(folder / "run"))
        self._environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Its output. Fails with its messages."""
        done = subprocess.run(
            [*self._store, *map(str, arguments)],
            capture_output=True, text=True, cwd=cwd, env=self._environment, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def import_base(self, folder: Path) -> None:
        """Makes python:3.11-slim of the base that .ci/install/image.sh has made."""
        shutil.copy(BASE, folder / "base.tar.gz")
        (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar.gz /\nENV PATH=/usr/sbin:/usr/bin:/sbin:/bin\n")
        self.run("build", "--quiet", "--tag", "docker.io/library/python:3.11-slim", folder)

    def build(self, arguments: Sequence[str], cwd: Path) -> None:
        """`docker build` with these arguments, and what this machine's package index needs."""
        options = ["--pull-never", "--format", "docker"]
        if index := os.environ.get("PIP_INDEX_URL"):
            options += ["--build-arg", f"PIP_INDEX_URL={index}"]
        if authority := os.environ.get("SSL_CERT_FILE"):
            options += ["--secret", f"id=ca,src={authority}"]
        self.run("build", *options, *arguments, cwd=cwd)

    @contextlib.contextmanager
    def mounted(self, name: str) -> Iterator[Image]:
        """The image with a tree of its own."""
        container = self.run("from", "--pull-never", name)
        config = json.loads(self.run("inspect", "--type", "image", name))["Docker"]["config"]
        tree = Path(self.run("mount", container))
        (tree / "etc" / "hosts").touch()  # an engine mounts one there
        try:
            yield Image(tree, config)
        finally:
            self.run("rm", "--all")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self._folder / "store" / "overlay"], capture_output=True, check=False)
        shutil.rmtree(self._folder)


class Network:
    """A network namespace in which only loopback is up. names: those that resolve to it."""

    def __init__(self, folder: Path, names: Sequence[str] = ()) -> None:
        self.hosts = folder / "hosts"
        self.hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *names)))
        self.hosts.chmod(0o644)  # the users of the containers read it, whatever this process' umask is
        self._keeper = subprocess.Popen(
            [*TIED, "unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"up\n"

    @property
    def entered(self) -> tuple[str, ...]:
        """Before a command that runs in it."""
        return (*TIED, "nsenter", f"--net=/proc/{self._keeper.pid}/ns/net")

    def shell(self, lines: str, **variables: str) -> str:
        """What the lines print, run by a shell in the network."""
        done = subprocess.run(
            [*self.entered, "bash", "-euc", lines],
            capture_output=True, text=True, env={**os.environ, **variables}, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (lines, done.stdout, done.stderr)
        return done.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.kill()
        with self._keeper:
            pass


class Container:
    """A running container. volumes: each target in the container, and the directory that it shows."""

    def __init__(
        self,
        image: Image,
        network: Network,
        log: Path,
        *,
        command: Sequence[str],
        volumes: Mapping[str, Path],
        variables: Mapping[str, str],
    ) -> None:
        self.log = log
        environment = {"HOME": "/", **image.variables, **variables}
        for target, source in volumes.items():
            if not source.exists():  # a new volume begins as the image's directory
                source.mkdir()
                of_image = (image.tree / target.lstrip("/")).stat()
                os.chown(source, of_image.st_uid, of_image.st_gid)
                source.chmod(of_image.st_mode & 0o777)
        mounts = [f"{source}={target}" for target, source in volumes.items()]
        if image.tree == Path("/"):  # which gets no mounts: the directories are named where the volumes are
            mounts = []
            environment = {name: str(volumes.get(value, value)) for name, value in environment.items()}
        start = ["bash", "-c", _START, "start", str(image.tree), image.user, str(network.hosts), *mounts, "--"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*network.entered, "unshare", "--mount", "--pid", "--fork", "--kill-child", *start]
                + ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """Its exit code when it has ended."""
        return self._process.wait(timeout_s)

    @property
    def first(self) -> list[int]:
        """The id of its first process, while it runs. If that one ends, the kernel ends all others."""
        return list(children_of(self._process.pid))

    def stop(self, timeout_s: float) -> int:
        """Sends SIGTERM to its first process, as an engine does. Returns its exit code, which comes within the time."""
        for first in self.first:
            os.kill(first, signal.SIGTERM)
        return self.wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for first in self.first:  # --kill-child does not end a process that has changed its user: prctl(2)
            os.kill(first, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)  # it ends with the first one, which it reaps
        self._process.kill()
        self._process.wait(10)


def services(file: Path) -> dict[str, Any]:
    """The services of a compose file, as the program of the Compose Specification resolves them."""
    done = subprocess.run(
        [COMPOSE, "--format", "json", file.name],
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise ValueError(done.stderr + done.stdout)
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


@contextlib.contextmanager
def told_of(running: Mapping[str, Container]) -> Iterator[None]:
    """Adds to an error what the containers have said."""
    try:
        yield
    except BaseException as error:
        for name, container in running.items():
            code = container.poll()
            state = "runs" if code is None else f"ended with {code}"
            error.add_note(f"--- {name} {state}:\n{container.log.read_text(errors='replace')[-4000:]}")
        raise


@contextlib.contextmanager
def composed(file: Path, image: Image, network: Network, folder: Path) -> Iterator[dict[str, Container]]:
    """Every service of the file as a container of the image, in the order of the file's dependencies.

    If the block fails, the error has a note with each container's exit code and log.
    """
    waiting, running = dict(services(file)), dict[str, Container]()
    with contextlib.ExitStack() as stack, told_of(running):
        while waiting:
            name = next(each for each in waiting if not set(waiting[each].get("depends_on") or ()) & set(waiting))
            service = waiting.pop(name)
            entrypoint = service.get("entrypoint") or image.config["Entrypoint"]
            variables = {key: value for key, value in (service.get("environment") or {}).items() if value is not None}
            volumes = {each["target"]: folder / each["source"] for each in service.get("volumes") or ()}
            running[name] = stack.enter_context(
                Container(
                    image,
                    network,
                    folder / f"{name}.log",
                    command=[*entrypoint, *(service.get("command") or ())],
                    volumes=volumes,
                    variables=variables,
                )
            )
        yield running
