"""`kestrel-gateway work` as a process, and what a test does to it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.lab.commands import COMMAND, environment
from tests.lab.forkserver import ForkedProcess
from tests.lab.waiting import LIMIT_S, until


class WorkProcess:
    """One worker. Its log and the standard error of its commands are in `log`. Use as a context manager."""

    def __init__(self, url: str, log: Path, *arguments: str, **variables: str) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process: subprocess.Popen[bytes] = ForkedProcess(
                [*COMMAND, "work", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment(url, **variables),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker does not end:\n{self.text()[-4000:]}") from None

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        """The first match in the log."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(re.finditer(pattern, self.text()))
            return bool(found)

        until(look, lambda: f"no {pattern!r} in\n{self.text()[-4000:]}")
        return found[0]

    def cpu_s(self) -> float:
        """The processor time that it has used, without its commands."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100  # USER_HZ, see proc(5)
