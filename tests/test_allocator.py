"""Freed memory returns to the system, even if it is between memory that is in use."""

import subprocess
import sys

PROGRAM = """
import asyncio, resource
from gateway.common import allocator

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


BLOCKS = """
import sys
from gateway.common import allocator

if sys.argv[1] == "returned":
    allocator.return_large_blocks()
for _ in range(2):  # glibc gives the first one back, and keeps blocks of its size from then on
    before = allocator._resident_bytes()
    large = b"x" * (20 << 20)
    later = b"x" * 100_000
    del large
print(allocator._resident_bytes() - before)
"""


def test_a_large_block_returns_below_what_is_in_use():
    """Which it does not by itself."""
    for kind in ("kept", "returned"):
        done = subprocess.run(
            [sys.executable, "-c", BLOCKS, kind], capture_output=True, text=True, timeout=60, check=True
        )
        assert (int(done.stdout) > 10 << 20) == (kind == "kept"), (kind, done.stdout)
