"""Log lines: their order, and how a value is written."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, logging, os, sys, threading
from gateway.common import logs

logs.set_up(sys.argv[1], "info", "worker-0")
log = logging.getLogger("a")

async def main():
    logs.request(log, logging.INFO, {"id": 1, "path": "/a b", "key": "", "ms": 0.1})
    logs.request(log, logging.INFO, {"id": 2, "path": "/\\n"})
    log.warning("three")
    logs.request(log, logging.INFO, {"id": 4})
    log.info("five", extra={"fields": {"code": "a= b"}})
    await asyncio.sleep(0)
    logs.request(log, logging.INFO, {"id": 6})
    thread = threading.Thread(target=log.warning, args=("seven",))
    thread.start()
    thread.join()
    logs.request(log, logging.INFO, {"id": 8})

def stopped():
    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: (logs.request(log, logging.INFO, {"id": 9}), loop.stop()))
    loop.run_forever()

async def killed():
    logs.request(log, logging.INFO, {"id": 10})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    os._exit(0)

asyncio.run(main())
stopped()
if sys.argv[2] == "killed":
    asyncio.run(killed())
"""


@functools.cache
def lines(log_format: str, ends: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, log_format, ends]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr.splitlines()


@pytest.mark.parametrize("ends", ["in order", "killed"])
def test_lines_are_in_order_and_values_with_spaces_in_quotes(ends: str) -> None:
    """Those of requests, which are formatted later, with those of records; also where a loop stops before its turn."""
    found = [re.sub(r"^\S+Z ", "", line) for line in lines("text", ends)]
    assert found == [
        "INFO worker-0: request id=1 path='/a b' key='' ms=0.1",
        "INFO worker-0: request id=2 path=/\\n",
        "WARNING worker-0: three",
        "INFO worker-0: request id=4",
        "INFO worker-0: five code='a= b'",
        "INFO worker-0: request id=6",
        "WARNING worker-0: seven",
        "INFO worker-0: request id=8",
        "INFO worker-0: request id=9",
        *(["INFO worker-0: request id=10"] if ends == "killed" else []),
    ]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_each_line_has_the_time_of_its_event(log_format: str) -> None:
    """In order, and in UTC with milliseconds."""
    found = lines(log_format, "in order")
    times = [json.loads(line)["time"] if log_format == "json" else line.split()[0] for line in found]
    assert len(times) == 9
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each) for each in times)
