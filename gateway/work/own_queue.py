"""Whether an endpoint puts jobs on the queue that they are taken from, so that they would never end."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

_ENQUEUE: Final = re.compile(r"/queues/([^/]+)/jobs(?:/batch)?")


def own_queue(endpoint: str, gateway: str, queues: Sequence[str]) -> str:
    """The queue of `queues` on which the endpoint stores what is posted to it; empty if it is none of them.

    Names of one host are recognized, such as localhost; gateways behind a proxy are not.
    """
    to, taken_from = urlsplit(endpoint), urlsplit(gateway)
    found = _ENQUEUE.fullmatch(to.path.removeprefix(taken_from.path))
    queue = unquote(found[1]) if found else ""
    return queue if queue in queues and _addresses(to) & _addresses(taken_from) else ""


def _addresses(url: SplitResult) -> set[object]:
    try:
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        return {each[4][:2] for each in socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)}
    except (OSError, ValueError):
        return set()
