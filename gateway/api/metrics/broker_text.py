"""The metrics of the embedded broker: its commits, its files and the free space on its disk.

They have no label `worker`: the broker is one process, and the worker that is scraped asks it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Final

from gateway.api.metrics.text import family

GAUGES: Final = {
    "kestrel_gateway_broker_file_bytes": "size of the files of the embedded broker",
    "kestrel_gateway_broker_disk_free_bytes": "free space on the disk of the embedded broker",
    "kestrel_gateway_broker_disk_size_bytes": "size of the disk of the embedded broker",
}
COMMITS: Final = "kestrel_gateway_broker_commit_duration_seconds"
MEANING: Final = "time of a commit of the embedded broker; its count is the number of commits"


class BrokerText:
    """data: the data directory. ask: the counters of the broker's storage; None if it does not answer."""

    def __init__(self, data: Path, ask: Callable[[], Awaitable[Mapping[str, str] | None]]) -> None:
        self._data = data
        self._ask = ask

    async def text(self) -> bytes:
        """The metrics. Those that cannot be read now are missing."""
        sizes, counters = await asyncio.gather(asyncio.to_thread(_sizes, self._data), self._ask())
        parts = [
            family(name, meaning, "gauge", [f" {sizes[name]}"]) for name, meaning in GAUGES.items() if name in sizes
        ]
        if counters:
            parts.append(family(COMMITS, MEANING, "histogram", _histogram(counters)))
        return "".join(parts).encode()


def _histogram(counters: Mapping[str, str]) -> Iterator[str]:
    counts = [int(each) for each in counters["commit_counts"].split(",")]
    bounds = [*counters["commit_bounds"].split(","), "+Inf"]
    for bound, count in zip(bounds, accumulate(counts), strict=True):
        yield f'_bucket{{le="{bound}"}} {count}'
    yield f"_count {sum(counts)}"
    yield f"_sum {counters['commit_seconds']}"


def _sizes(data: Path) -> dict[str, int]:
    try:
        disk = os.statvfs(data)
        files = sum(path.stat().st_size for path in data.glob("broker.*") if path.is_file())
    except OSError:  # a file went away
        return {}
    values = (files, disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
    return dict(zip(GAUGES, values, strict=True))
