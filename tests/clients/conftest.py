"""The six languages, built once, and programs that end with their test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.languages import BUILD_S, LANGUAGES, Language, Program

Run = Callable[..., Program]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Language], Path]:
    """Gives the folder in which a language's clients are built; skips where it is missing, and fails in CI."""
    done: dict[str, Path] = {}

    def build(language: Language) -> Path:
        if missing := language.missing():
            reason = f"{language.name}: {missing} is not installed (.ci/install/clients.sh)"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        if language.name not in done:
            done[language.name] = folder = tmp_path_factory.mktemp(language.name)
            for command in language.build(language.sources, folder):
                compiled = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S)
                assert compiled.returncode == 0, compiled.stdout + compiled.stderr
        return done[language.name]

    return build


@pytest.fixture
def run(built: Callable[[Language], Path]) -> Iterator[Run]:
    """Starts a language's `producer` or `consumer`; what still runs at the test's end is killed."""
    started: list[Program] = []

    def start(language: Language, which: str, gateway: str, queue: str, **environment: str) -> Program:
        command = language.command(built(language), which)
        started.append(Program(command, gateway, queue, **environment))
        return started[-1]

    yield start
    for program in started:
        program.kill()


PARAMETERS = [
    pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.name != "python" else []) for each in LANGUAGES
]
"""Python's clients need no outside program."""


@pytest.fixture(params=PARAMETERS)
def language(request: pytest.FixtureRequest) -> Language:
    """Each language in turn."""
    return request.param
