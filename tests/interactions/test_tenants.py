"""Cells about tenants. Each docstring is the cell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.keyring import Keyring
from tests.interactions.calls import Api
from tests.lab.gateway import running


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Api]]:
    """Two tenants of a gateway; only the first has a back-off."""
    directory = tmp_path_factory.mktemp("tenants")
    (directory / "queues.toml").write_text(
        '[queues."acme/back-off"]\nretry_delay = [0.2]\n[queues.limits]\nmax_in_flight = 1\n'
        "[queues.rate]\nrate = 0.001\n"
    )
    keys = Keyring(directory / "keys.toml")
    keys.add("acme", "acme")
    keys.add("beta", "beta")
    flags = ("--queues", str(directory / "queues.toml"), "--keys", str(keys.path))
    with (
        running(directory / "data", *flags) as made,
        keys.client(made, "acme") as acme,
        keys.client(made, "beta") as beta,
    ):
        yield Api(acme), Api(beta)


def test_back_off_tenants(tenants: tuple[Api, Api]) -> None:
    """A table of one tenant delays the jobs of that tenant only."""
    acme, beta = tenants
    for each in tenants:
        each.put("back-off", 1)
    assert "due_at" in acme.nack(acme.take("back-off"))
    assert beta.nack(beta.take("back-off")) == {}
    assert beta.take("back-off", 0)["attempt"] == 2
    assert acme.take("back-off")["attempt"] == 2


def test_limits_tenants(tenants: tuple[Api, Api]) -> None:
    """The queue of each tenant counts for itself."""
    for each in tenants:
        each.put("limits", 1, 2)
    for each in tenants:
        each.take("limits", 0)
        assert each.limited("limits")


def test_rate_tenants(tenants: tuple[Api, Api]) -> None:
    """The queue of each tenant has a rate of its own."""
    for each in tenants:
        each.put("rate", 1, 2)
    for each in tenants:
        each.values("rate", 1)
        assert each.limited("rate", "rate")


def test_fanout_tenants(tenants: tuple[Api, Api]) -> None:
    """A subscription gets the jobs of its own tenant only. Other tenants have no such subscription."""
    acme, beta = tenants
    name = acme.subscribe("orders")
    beta.put("orders", 1)
    acme.put("orders", 2)
    assert acme.values(name, 1) == [2]
    assert acme.items(name) == 0
    assert beta.http.get(f"/queues/{name}/next?timeout=0").status_code == 404
