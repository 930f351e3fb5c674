"""Single dead letters over HTTP on Kestrel and on what imitates it: one that another consumer holds is not gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kestrel.standin import Manners, StandIn, darner, siberite
from tests.lab.gateway import Running
from tests.lab.http import AsyncHttp
from tests.lab.memcache import MemcacheClient

JOBS = "/queues/q/dead-letters/jobs"


def letter(number: int) -> bytes:
    event = {"specversion": "1.0", "id": f"job-{number}", "source": "/s", "type": "t", "deadreason": "rejected"}
    return json.dumps(event).encode()


@pytest.mark.parametrize("manners", [Manners, darner, siberite])
def test_a_letter_that_another_consumer_holds_is_not_said_to_be_gone(
    tmp_path: Path, manners: Callable[[], Manners]
) -> None:
    """409 while it is held, and the others are listed in order; afterwards it is deleted. An unknown one is a 404."""

    async def main() -> None:
        async with StandIn(manners()) as server:
            for number in range(5):
                server.append("q__dead", letter(number))
            gateway = await asyncio.to_thread(Running, tmp_path / "data", "--kestrel", server.address)
            http = AsyncHttp(gateway.port)

            async def ask(method: str, path: str) -> tuple[int, str]:
                status, _, body = await http.ask(method, JOBS + path)
                return status, json.loads(body).get("code", "") if status >= 400 else ""

            async def listed() -> list[str]:
                _, _, body = await http.ask("GET", JOBS)
                return [each["id"] for each in json.loads(body)["letters"]]

            try:
                other = await asyncio.to_thread(MemcacheClient, server.address)
                with contextlib.closing(other):
                    assert await asyncio.to_thread(other.get, "q__dead/open") == letter(0)
                    assert await ask("DELETE", "/job-0") == (409, "dead-letter-held")
                    assert await ask("POST", "/job-0/redrive") == (409, "dead-letter-held")
                    assert await listed() == [f"job-{number}" for number in range(1, 5)]
                    assert (await ask("DELETE", "/job-3"))[0] == 204
                    assert await asyncio.to_thread(other.get, "q__dead/abort") is None
                assert await listed() == ["job-0", "job-1", "job-2", "job-4"]
                assert (await ask("DELETE", "/job-0"))[0] == 204
                assert await ask("DELETE", "/job-0") == (404, "dead-letter-not-found")
                assert await listed() == ["job-1", "job-2", "job-4"]
            finally:
                http.close()
                await asyncio.to_thread(gateway.kill)

    asyncio.run(main())
