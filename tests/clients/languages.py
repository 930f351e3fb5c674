"""The example clients of clients/, one language each: what they need, how they are built, and how a program is run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.forkserver import ForkedProcess

SOURCES = Path(__file__).parents[2] / "clients"
NODE_MODULES = Path.home() / ".cache" / "kestrel-gateway" / "typescript" / "node_modules"
BUILD_S = 120
LIMIT_S = 40.0
WITHOUT_TLS = {"SSL_CERT_FILE": "", "SSL_CERT_DIR": str(SOURCES)}
"""A folder without certificates: httpx and OpenSSL read the system's at their start, for 40 ms of CPU, and no program
here speaks TLS."""


@dataclass(frozen=True, slots=True)
class Language:
    """build: compiles the sources of a folder into another. command: runs `producer` or `consumer` of that folder."""

    name: str
    needs: tuple[str, ...]
    build: Callable[[Path, Path], list[list[str]]]
    command: Callable[[Path, str], list[str]]

    @property
    def sources(self) -> Path:
        return SOURCES / self.name

    def missing(self) -> str:
        """What is not installed; empty if nothing is."""
        return ", ".join(each for each in self.needs if not (shutil.which(each) or Path(each).exists()))


def _nothing(_sources: Path, _built: Path) -> list[list[str]]:
    return []


def _php_check(sources: Path, _built: Path) -> list[list[str]]:
    return [["php", "-l", str(each)] for each in sorted(sources.glob("*.php"))]


def _ruby_check(sources: Path, _built: Path) -> list[list[str]]:
    return [["ruby", "-wc", str(each)] for each in sorted(sources.glob("*.rb"))]


def _tsc(sources: Path, built: Path) -> list[list[str]]:
    tsc = NODE_MODULES / "typescript" / "bin" / "tsc"
    types = str(NODE_MODULES / "@types")
    (built / "package.json").write_text('{"type": "module"}')
    return [["node", str(tsc), "-p", str(sources), "--outDir", str(built), "--typeRoots", types]]


def _go_build(sources: Path, built: Path) -> list[list[str]]:
    return [["go", "-C", str(sources), "vet", "./..."], ["go", "-C", str(sources), "build", "-o", f"{built}/", "./..."]]


def _javac(sources: Path, built: Path) -> list[list[str]]:
    return [["javac", "-Xlint:all", "-Werror", "-d", str(built), *map(str, sorted(sources.glob("*.java")))]]


LANGUAGES = (
    Language("python", (), _nothing, lambda _, which: [sys.executable, str(SOURCES / "python" / f"{which}.py")]),
    Language(
        "typescript",
        ("node", str(NODE_MODULES / "typescript")),
        _tsc,
        lambda built, which: ["node", str(built / f"{which}.js")],
    ),
    Language("go", ("go",), _go_build, lambda built, which: [str(built / which)]),
    Language(
        "java",
        ("java", "javac"),
        _javac,
        lambda built, which: [
            "java",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-cp",
            str(built),
            which.capitalize(),
        ],
    ),
    Language("php", ("php",), _php_check, lambda _, which: ["php", str(SOURCES / "php" / f"{which}.php")]),
    Language("ruby", ("ruby",), _ruby_check, lambda _, which: ["ruby", str(SOURCES / "ruby" / f"{which}.rb")]),
)


class Program:
    """A producer or consumer that runs. Its lines can be waited for while it does."""

    def __init__(self, command: list[str], gateway: str, queue: str, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self._process: subprocess.Popen[str] = ForkedProcess(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**kept, **WITHOUT_TLS, "GATEWAY_URL": gateway, "QUEUE": queue, **environment},
        )
        self._news = threading.Condition()
        self.output: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self.output)),
            threading.Thread(target=self._read, args=(self._process.stderr, self.errors)),
        ]
        for each in self._readers:
            each.start()

    def _read(self, stream, lines: list[str]) -> None:
        for line in stream:
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()

    def feed(self, *lines: str) -> None:
        """Writes lines to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write("".join(line + "\n" for line in lines))
        self._process.stdin.flush()

    def await_output(self, lines: int) -> list[str]:
        """Its first lines, once there are so many."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.output) >= lines, LIMIT_S), self
            return self.output[:lines]

    def await_error(self, pattern: str) -> None:
        """Returns once a line of its standard error matches."""
        with self._news:
            assert self._news.wait_for(lambda: any(re.search(pattern, line) for line in self.errors), LIMIT_S), self

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """Its exit code, once its input has ended and it has."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(LIMIT_S)
        for each in self._readers:
            each.join(LIMIT_S)
        return code

    def terminate_and_end(self) -> tuple[int, float]:
        """Its exit code after a SIGTERM, and the seconds it took to end."""
        start_s = time.monotonic()
        self.terminate()
        return self.end(), time.monotonic() - start_s

    def kill(self) -> None:
        """Ends it, whatever it does; nothing if it has ended."""
        self._process.kill()
        self._process.wait(LIMIT_S)
        for each in self._readers:
            each.join(LIMIT_S)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def __repr__(self) -> str:
        written = "\n".join([*self.output, "--", *self.errors])
        return f"{self._process.args!r} {self._process.poll()}\n{written}"
