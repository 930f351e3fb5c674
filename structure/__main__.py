"""`python -m structure [--root DIR] [--list]`: what a request runs through, and the shape of the classes.

Starts the gateway of the source tree with its embedded broker, and counts what the worker calls for each of four
requests. DIR may be another version's checkout; it runs with this environment's libraries.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from structure import calls, classes, passing, sources

PROGRAMS = ("bench", "chaos", "fuzz", "stability", "structure")
BROKER = "gateway/broker/"
"""Another process than the one whose functions pass calls on."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m structure", description=__doc__.partition("\n\n")[2])
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).parent.parent,
        metavar="DIR",
        help="the source tree to count (default: this one)",
    )
    parser.add_argument("--list", action="store_true", help="also print every call")
    asked = parser.parse_args()
    if not (asked.root / "gateway" / "__init__.py").exists():
        parser.error(f"--root: {asked.root} has no package gateway; name the root of a checkout")
    try:
        traces = calls.trace(asked.root)
    except calls.TraceError as exc:
        print(f"structure: {exc}", file=sys.stderr)
        return 1
    print(
        "\n".join(
            [*request_lines(traces, listed=asked.list), "", *class_lines(asked.root), "", *chain_lines(asked.root)]
        )
    )
    return 0


def request_lines(traces: list[calls.Trace], *, listed: bool) -> Iterator[str]:
    """The table of requests; listed: followed by the calls of each, in order."""
    yield "Requests, as the worker runs them. calls: of functions of gateway/. files: that these are in. hops: calls"
    yield "from one file to another. entries: calls by the event loop."
    yield f"{'request':20}{'calls':>7}{'files':>7}{'hops':>7}{'entries':>9}"
    for trace in traces:
        yield f"{trace.name:20}{len(trace.calls):7}{trace.files:7}{trace.hops:7}{trace.entries:9}"
    for trace in traces if listed else ():
        yield f"\n{trace.name}:"
        for file, name, caller in trace.calls:
            origin = "" if caller == file else f"  from {caller or 'the event loop'}"
            yield f"  {file}  {name}{origin}"


def class_lines(root: Path) -> Iterator[str]:
    """The large classes, and the names that are not unique."""
    found = classes.shapes(sources.modules(root, "gateway"))
    large = classes.large(found)
    yield f"Classes with more than {classes.MOST_METHODS} methods: {len(large)}"
    for each in large:
        yield f"  {each.name:20}{each.methods:4}  {each.file}"
    yield ""
    for title, packages in (("gateway", ["gateway"]), ("gateway and programs", ["gateway", *PROGRAMS])):
        repeated = classes.repeated(classes.shapes(sources.modules(root, *packages)))
        yield f"Class names defined twice in {title}: {len(repeated)}"
        for name, files in repeated.items():
            yield f"  {name:20}{', '.join(files)}"


def chain_lines(root: Path) -> Iterator[str]:
    """The functions that only pass their call on."""
    modules = [each for each in sources.modules(root, "gateway") if not each.file.startswith(BROKER)]
    chain = passing.longest_chain(modules)
    yield f"Functions that only pass their call on: {len(passing.passing(modules))}"
    yield f"Longest chain of them: {max(0, len(chain) - 1)} calls passed on"
    for function in chain:
        yield f"  {function}"


if __name__ == "__main__":
    sys.exit(main())
