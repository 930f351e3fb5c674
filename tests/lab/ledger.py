"""The ledger of leases: what was handed out has ended in one of the ways that are counted, or is open."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

import pytest

from tests.lab.gateway import Running

_LINE = re.compile(r"leases: delivered ([0-9]+) = ([a-z_0-9 +]+)")
_SERIES = re.compile(r"([a-z_]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-z]+)="([^"\\]*)",?')
_OF_LEASES = ("leases_", "workers")
"""The series that the ledger needs. A scrape of a gateway with many queues has thousands of others, and to read all of
them after each test takes a tenth of the tests' CPU time."""

Labels = frozenset[tuple[str, str]]


def figures(text: str, *names: str) -> dict[tuple[str, Labels], float]:
    """Every series of a scrape, or those whose names begin with one of these. Fails if one is in it twice.

    They are what Prometheus' own reader finds, in a tenth of its time.
    """
    of_these = tuple(f"kestrel_gateway_{name}" for name in names) or ("",)
    found: dict[tuple[str, Labels], float] = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.startswith(of_these):
            continue
        match = _SERIES.fullmatch(line)
        assert match is not None, line
        name, labels, value = match.groups(default="")
        assert not _LABEL.sub("", labels), line
        series = (name, frozenset(_LABEL.findall(labels)))
        assert series not in found, series
        found[series] = float(value)
    return found


def total(found: dict[tuple[str, Labels], float], name: str, **labels: str) -> float:
    """The sum of the series of that name and, at least, those labels."""
    return sum(
        value
        for (each, has), value in found.items()
        if each == f"kestrel_gateway_{name}" and frozenset(labels.items()) <= has
    )


def workers(found: dict[tuple[str, Labels], float]) -> list[str]:
    """The numbers of the workers that answered the scrape."""
    return sorted({value for _, labels in found for name, value in labels if name == "worker"})


def assert_balanced(text: str) -> None:
    """The ledger of every worker in a scrape balances, and there is one for each that answered."""
    found = figures(text, *_OF_LEASES)
    assert len(workers(found)) == total(found, "workers", state="answered") >= 1
    for worker in workers(found):
        delivered = total(found, "leases_delivered_total", worker=worker)
        ended = total(found, "leases_settled_total", worker=worker)
        still_open = total(found, "leases_open", worker=worker)
        assert delivered == ended + still_open, f"worker {worker}: {delivered:g} = {ended:g} + {still_open:g}\n{text}"


def final_counts(log: str) -> list[dict[str, int]]:
    """What each worker that ended in order had counted; each of them balances."""
    found = []
    for line in _LINE.finditer(log):
        ways: Counter[str] = Counter()
        for part in line[2].split(" + "):
            way, _, count = part.rpartition(" ")
            ways[way] += int(count)
        assert sum(ways.values()) == int(line[1]), line[0]
        found.append(dict(ways))
    return found


def check(gateway: Running, operator: Mapping[str, str] | None = None) -> None:
    """The lease counts of a running gateway and of its ended workers balance. operator: headers of an operator."""
    if gateway.process.poll() is None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)) as connection:
            connection.request("GET", "/metrics", headers=operator or {})
            answer = connection.getresponse()
            text = answer.read().decode()
        assert answer.status == 200, text
        assert_balanced(text)
    final_counts(gateway.log.read_text())


def check_all() -> None:
    """The counters of every gateway that runs at this moment and gives them."""
    for gateway in Running.started:
        if gateway.is_open and gateway.process.poll() is None:
            check(gateway)


def _scope(fixture_name: str, config: pytest.Config) -> Literal["function", "module"]:
    """A scrape of all workers costs more than most tests. A lease that was counted wrongly stays so: what is found at
    the end of a file is found after the test itself in CI."""
    return "function" if os.environ.get("CI") else "module"


@pytest.fixture(scope=_scope)
def ledger_balances() -> Iterator[None]:
    """After the tests the ledger of leases balances in every gateway that runs."""
    yield
    check_all()
