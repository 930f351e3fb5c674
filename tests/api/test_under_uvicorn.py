"""The quick tests of this folder under plain uvicorn: the gateway is an ASGI application, whichever server runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOT_UNDER_UVICORN = {"test_connections_leave_others_room": "the shares of tenants in the connections"}
"""Tests of what only the gateway's own server does, by name or part of a name, and what that is."""


@pytest.mark.slow
def test_the_api_is_the_same_under_uvicorn(root: Path) -> None:
    """Each test passes that is not of the server itself. One process: the tests beside this one have the other core."""
    left_out = " or ".join(NOT_UNDER_UVICORN)
    chosen = ["-k", f"not ({left_out})"] if left_out else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not alone", *chosen]
    result = subprocess.run(
        [*command, "tests/api"],
        cwd=root,
        env=os.environ | {"KESTREL_GATEWAY_TEST_SERVER": "uvicorn"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-4000:]
