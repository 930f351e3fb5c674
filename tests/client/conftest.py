"""Commands for the shared gateway."""

from __future__ import annotations

import pytest

from tests.lab.commands import Commands
from tests.lab.gateway import Running


@pytest.fixture
def command(gateway: Running) -> Commands:
    return Commands(gateway.url)
