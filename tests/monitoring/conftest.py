"""A collector of spans for the tests of traces."""

from collections.abc import Iterator

import pytest

from tests.lab.collector import Collector


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    started = Collector()
    yield started
    started.close()
