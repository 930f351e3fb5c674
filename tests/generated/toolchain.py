"""Where the generators are, and folders where what they make is kept: the same contract is generated once.

`.ci/install/generators.sh` brings the generators. Beside them each build has a folder, named by a hash of all that goes
into it; builds that nobody used for three days are removed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ROOT / "openapi.yaml"
HERE = Path(__file__).parent
PINS = HERE / "tools"
INSTALL = ROOT / ".ci/install/generators.sh"
TOOLS = Path(os.environ.get("KESTREL_GATEWAY_TEST_GENERATORS") or Path.home() / ".cache/kestrel-gateway/generators")
BUILDS = TOOLS / "builds"
KEPT_S = 3 * 86400.0
WITHIN_S = 300.0


def jars() -> list[Path]:
    """What the Java client is compiled with."""
    return sorted(path for path in (TOOLS / "jars").glob("*.jar") if path != generator_jar())


def generator_jar() -> Path:
    """The openapi-generator; where it is absent, a path where nothing is."""
    return next((TOOLS / "jars").glob("openapi-generator-cli-*.jar"), TOOLS / "jars/openapi-generator-cli.jar")


def oapi_codegen() -> Path:
    return next((TOOLS / "go").glob("oapi-codegen-*"), TOOLS / "go/oapi-codegen")


def python(program: str = "python") -> Path:
    """A program of the environment that has both Python clients' libraries."""
    return TOOLS / "python/bin" / program


def node_modules() -> Path:
    return TOOLS / "node/node_modules"


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What a command prints. Raises AssertionError with all of it if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN_S,
    )
    assert done.returncode == 0, f"{' '.join(words)[:200]}: exit code {done.returncode}\n{done.stdout[-8000:]}"
    return done.stdout


def cached(name: str, inputs: Iterable[Path], fill: Callable[[Path], None]) -> Path:
    """A folder that `fill` has filled, now or for an earlier run with the same inputs (files, and folders of them).

    `fill` works in a folder of another name, so that a failure leaves nothing behind.
    """
    digest = hashlib.sha256(name.encode())
    for path in inputs:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.relative_to(path.parent)}\0".encode() + file.read_bytes())
    place = BUILDS / f"{name}-{digest.hexdigest()[:16]}"
    if not place.exists():
        BUILDS.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=BUILDS, prefix=f".{name}-"))
        try:
            fill(scratch)
            scratch.rename(place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    os.utime(place)
    for old in BUILDS.iterdir():
        if old.stat().st_mtime < time.time() - KEPT_S:
            shutil.rmtree(old, ignore_errors=True)
    return place
