"""The gateways' own counters of leases in `/metrics`: each lease that was delivered has ended or is open. Pure."""

from __future__ import annotations

import re
from collections import Counter

_SERIES = re.compile(
    r'^kestrel_gateway_leases_(delivered_total|settled_total|open)\{[^}]*worker="([0-9]+)"[^}]*\} ([0-9.e+]+)$',
    re.MULTILINE,
)


def imbalances(metrics: str) -> list[str]:
    """The workers whose counters do not balance, each with its figures; also the lack of any counters."""
    counts: dict[str, Counter[str]] = {}
    for name, worker, value in _SERIES.findall(metrics):
        counts.setdefault(worker, Counter())[name] += int(float(value))
    found = [
        f"worker {worker} delivered {count['delivered_total']} leases, of which {count['settled_total']} have ended "
        f"and {count['open']} are open"
        for worker, count in sorted(counts.items())
        if count["delivered_total"] != count["settled_total"] + count["open"]
    ]
    return found if counts else ["there are no counters"]
