"""The gateways that generated clients talk to: one with its embedded broker and no keys, and one with keys before a
Kestrel server of its own."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.api.keyring import Keyring
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running, running


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway, and the key that its clients send: any, where the gateway has no keys."""

    gateway: Running
    key: str


@pytest.fixture(scope="package")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(tmp_path_factory.mktemp("embedded") / "data") as gateway:
        yield Served(gateway, "unused")


@pytest.fixture(scope="package")
def kestrel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("kestrel")
    keyring = Keyring(folder / "keys.toml")
    key = keyring.add("generated", scopes="produce consume admin")
    with BrokerProcess(folder / "broker") as broker:
        flags = ("--kestrel", f"127.0.0.1:{broker.port}", "--keys", str(keyring.path))
        with running(folder / "data", *flags) as gateway:
            yield Served(gateway, key)


@pytest.fixture(params=["embedded", "kestrel"])
def served(request: pytest.FixtureRequest) -> Served:
    """Each of both."""
    return request.getfixturevalue(request.param)


def lacking(missing: list[str]) -> None:
    """Without what a test needs it is skipped at home and fails in CI."""
    if missing:
        reason = f"not installed: {', '.join(missing)}; .ci/install/generators.sh installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
