"""Runs the commands of the client: in this process, which saves the start of Python, or as processes of their own.

Either way nothing of this machine's settings counts, and every call goes over a real connection.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

from gateway import cli
from tests.lab.forkserver import ForkedProcess

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "COVERAGE_PROCESS_CONFIG")
COMMAND = (sys.executable, "-m", "gateway")
"""The program as a process, in `environment`."""
NOWHERE = ("--data", "/dev/null/data")
"""No gateway can start there: `serve` in this process ends, too, if it does not refuse what it should."""


def environment(url: str, **variables: str) -> dict[str, str]:
    """The variables of a command that talks to the gateway at `url`."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": "/nonexistent", "KESTREL_GATEWAY_URL": url, **variables}


def run_process(command: Sequence[str], timeout_s: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """As subprocess.run with text; a command of the gateway is forked, which saves half a second of CPU."""
    with ForkedProcess(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended, and what it wrote."""

    returncode: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Commands:
    """Commands for one gateway, run in this process."""

    url: str

    def __call__(self, *arguments: str, stdin: bytes = b"", **variables: str) -> Finished:
        """Runs a command to its end."""
        return self._run(arguments, stdin, None, variables)

    def into(self, output: TextIO, *arguments: str) -> Finished:
        """Runs a command to its end, which writes to a file."""
        return self._run(arguments, b"", output, {})

    def _run(
        self, arguments: Sequence[str], stdin: bytes, output: TextIO | None, variables: Mapping[str, str]
    ) -> Finished:
        files = [io.TextIOWrapper(io.BytesIO(each), encoding="utf-8", write_through=True) for each in (stdin, b"", b"")]
        with (
            mock.patch.dict(os.environ, environment(self.url, **variables), clear=True),
            mock.patch.multiple(
                sys, argv=["kestrel-gateway", *arguments], stdin=files[0], stdout=output or files[1], stderr=files[2]
            ),
        ):
            try:
                cli.main()
            except SystemExit as end:
                code = end.code
        assert isinstance(code, int)
        written = [each.buffer.getvalue() for each in files[1:]]  # type: ignore[attr-defined]
        return Finished(code, *written)

    def text(self, *arguments: str, stdin: bytes = b"") -> str:
        """What a command prints; it must succeed."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, (done.returncode, done.stderr)
        return done.stdout.decode()
