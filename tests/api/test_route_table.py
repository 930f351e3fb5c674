"""The route table finds what Starlette's router, which is made from the same routes, finds."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Match, Route

from gateway.api.route_table import REMEMBERED, RouteTable
from gateway.app import Gateway, WorkerContext
from gateway.settings import Settings

WORDS = (
    "queues",
    "leases",
    "settle",
    "jobs",
    "batch",
    "next",
    "ack",
    "peek",
    "dead-letters",
    "backends",
    "livez",
    "q",
    "",
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RouteTable:
    """The gateway's routes."""
    folder = tmp_path_factory.mktemp("routes")

    async def made() -> RouteTable:
        context = WorkerContext(0, "0" * 16, folder, bytes(32), ("127.0.0.1:1",), tenanted=False)
        return Gateway(Settings(data=folder), context).routes

    return asyncio.run(made())


def by_starlette(table: RouteTable, path: str) -> tuple[object, dict[str, str]] | None:
    """The resource and the parameters of the first route that matches."""
    for route in table.router.routes:
        assert isinstance(route, Route)
        match, child = route.matches({"type": "http", "method": "GET", "path": path})
        if match is not Match.NONE:
            return route.endpoint, child["path_params"]
    return None


def test_every_route_is_found(table: RouteTable) -> None:
    """With its parameters, which are what the path has in their places."""
    for route in table.router.routes:
        assert isinstance(route, Route)
        path = route.path.replace("{", "<").replace("}", ">")
        found = table.find(path)
        assert found is not None
        assert found == by_starlette(table, path)
        assert found[0].template == route.path
        assert found[1] == {name: f"<{name}>" for name in route.param_convertors}


@given(st.lists(st.sampled_from(WORDS), max_size=6).map(lambda words: "/" + "/".join(words)))
def test_other_paths_are_found_alike(table: RouteTable, path: str) -> None:
    """Words of the contract in any order: both find the same, or nothing."""
    assert table.find(path) == by_starlette(table, path)


def test_a_path_is_found_again(table: RouteTable) -> None:
    """Also after so many others that none of the first is remembered."""
    for _ in range(2):
        for number in range(2 * REMEMBERED):
            path = f"/queues/q{number}/next"
            assert table.look_up(path) == table.find(path)
