"""The two servers of a move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.broker import BrokerProcess


@pytest.fixture
def old(tmp_path: Path) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path / "old") as process:
        yield process


@pytest.fixture
def new(tmp_path: Path) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path / "new") as process:
        yield process
