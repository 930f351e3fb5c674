"""Turns of a gateway: one caller for each name at a time, and an error of its purpose for one that waits too long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.delivery.caps.link import CapLink
from gateway.delivery.caps.turn import GatewayTurns
from gateway.errors import DeadLetterHeld


def turns(folder: Path) -> GatewayTurns:
    """Of a worker without a supervisor, which counts for itself."""
    return GatewayTurns(CapLink(folder), "search ", 0.05, lambda: DeadLetterHeld("other requests search; try again"))


def test_one_that_waits_too_long_gets_the_error_of_the_purpose(tmp_path: Path) -> None:
    """Another name has a turn of its own, and the turn is free for the next one afterwards."""

    async def main() -> None:
        each = turns(tmp_path)
        async with each.turn("a"):
            async with each.turn("b"):
                pass
            with pytest.raises(DeadLetterHeld, match="other requests search") as found:
                async with each.turn("a"):
                    pytest.fail("two have the turn")
            assert isinstance(found.value.__cause__, TimeoutError)
        async with each.turn("a"):
            pass

    asyncio.run(main())


def test_a_time_out_within_the_turn_stays_one(tmp_path: Path) -> None:
    """It is the caller's own."""

    async def main() -> None:
        async with turns(tmp_path).turn("a"), asyncio.timeout(0):
            await asyncio.sleep(1)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
