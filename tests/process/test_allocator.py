"""Freed memory returns to the system, even if it is between memory that is in use."""

import subprocess
import sys

PROGRAM = """
import asyncio, resource
from gateway.process import allocator

async def main():
    allocator.return_large_blocks()
    returning = asyncio.create_task(allocator.return_free_memory())
    await asyncio.sleep(0)
    before = allocator._resident_bytes()
    pieces = [b"x" * 100_000 for _ in range(400)]
    kept = pieces[::10]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    await asyncio.sleep(0.2)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    del pieces
    grown = allocator._resident_bytes() - before
    assert grown > 30 << 20, grown
    async with asyncio.timeout(10):
        while allocator._resident_bytes() - before > 12 << 20:
            await asyncio.sleep(0.01)
    assert all(piece == b"x" * 100_000 for piece in kept)
    returning.cancel()

allocator.RETURN_EVERY_S = 0.05
asyncio.run(main())
"""


def test_memory_between_what_is_in_use_returns():
    """40 MB of jobs, of which every tenth stays. A time without free descriptors does not end this."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
