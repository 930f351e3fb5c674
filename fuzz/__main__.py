"""Runs every target for its share of the time, each in its own process. The exit code is 1 if one failed."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = ("items", "events", "json", "codec", "multiplex", "http")
HERE = Path(__file__).parent


def main() -> int:
    """Either all targets for `--seconds` together, or the one that is named, in this process."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=TARGETS, help="run only this target, in this process")
    parser.add_argument("--seconds", type=int, default=60, help="time for all targets together (default: 60)")
    parser.add_argument(
        "--corpus", type=Path, help="directory that keeps the inputs worth trying again (default: a temporary one)"
    )
    given = parser.parse_args()
    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="fuzz-"))
    if given.target:
        run(given.target, given.seconds, corpus / given.target)
        return 0
    share = max(1, given.seconds // len(TARGETS))
    failed = []
    for target in TARGETS:
        command = [sys.executable, "-m", "fuzz", target, "--seconds", str(share), "--corpus", str(corpus)]
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=share + 120)
        last = [line for line in done.stderr.splitlines() if line.startswith(("Done", "#"))]
        print(f"{target}: {'clean' if done.returncode == 0 else 'FAILED'}; {last[-1] if last else ''}", flush=True)
        if done.returncode:
            failed.append(target)
            print(done.stdout[-3000:] + done.stderr[-6000:], flush=True)
    return 1 if failed else 0


def run(target: str, seconds: int, corpus: Path) -> None:
    """Ends the process: with 0 after the time, with another code, and the input next to the corpus, if one fails."""
    import atheris

    with atheris.instrument_imports(include=["gateway"]):
        module = importlib.import_module(f"fuzz.{target}")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(module.SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    for path in sorted((HERE / "seeds" / target).glob("*")):
        (corpus / path.name).write_bytes(path.read_bytes())
    options = [
        f"-max_total_time={seconds}",
        "-max_len=2048",
        "-timeout=20",
        f"-artifact_prefix={corpus.parent}/{target}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], module.one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
