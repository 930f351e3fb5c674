"""A client of each worker of a gateway, for what has to hold in all of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import httpx

from tests.lab.gateway import Running
from tests.lab.waiting import until


@contextlib.contextmanager
def client_of_each(gateway: Running, workers: int, **options: Any) -> Iterator[list[httpx.Client]]:
    """As many clients, each connected to another worker, which serves all requests of that connection.

    The kernel chooses the worker of a connection. options: those of `Running.client`.
    """
    found: dict[str, httpx.Client] = {}
    with contextlib.ExitStack() as stack:
        while len(found) < workers:
            client = stack.enter_context(gateway.client(**options))
            found.setdefault(worker_of(gateway, client), client)
        yield list(found.values())


def worker_of(gateway: Running, client: httpx.Client) -> str:
    """The name of the worker that answers the client, from the line of a request in the log."""
    line = re.compile(rf"(worker-\d+): request id={client.get('/queues').headers['request-id']} ")
    found: list[str] = []

    def look() -> bool:
        found.extend(line.findall(gateway.log.read_text()))
        return bool(found)

    until(look)
    return found[0]
