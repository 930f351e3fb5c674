"""Several broker processes, a gateway before them, and a small HTTP client that stays out of the measurement's way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.lab import ledger
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running


@contextlib.contextmanager
def brokers(directory: Path, count: int) -> Iterator[list[BrokerProcess]]:
    """That many brokers; whichever still runs at the end is killed."""
    made: list[BrokerProcess] = []
    try:
        made.extend(BrokerProcess(directory / f"broker-{number}", "--fsync", "off") for number in range(count))
        yield made
    finally:
        for broker in made:
            broker.close()


@contextlib.contextmanager
def before(directory: Path, many: list[BrokerProcess], *flags: str) -> Iterator[Running]:
    """A gateway that has these brokers, listed in `directory / "members"`."""
    members = directory / "members"
    members.write_text("".join(f"{broker.address}\n" for broker in many))
    gateway = Running(directory / "gateway", "--kestrel-file", str(members), *flags)
    try:
        yield gateway
        ledger.check(gateway)
    finally:
        gateway.kill()
