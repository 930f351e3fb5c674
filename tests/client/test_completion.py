"""Shells complete commands and options, as docs/command-line.md says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.lab.commands import COMMAND, environment, run_process


def completed(words: str, count: int) -> str:
    """What bash asks for, and the program's answer."""
    variables = {"_KESTREL_GATEWAY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    done = run_process(COMMAND, env=environment("http://x", **variables))
    return done.stdout


def test_commands_and_options_are_completed():
    """After the program's name come commands, after a command its options."""
    assert completed("kestrel-gateway dead", 1) == "plain,dead-letters\n"
    assert "plain,--lines\n" in completed("kestrel-gateway put q --l", 3)


@pytest.mark.parametrize(
    ("shell", "part"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --no-files")]
)
def test_each_shell_gets_its_script(root: Path, shell: str, part: str):
    """The variable of the document prints a script that completes the program."""
    text = (root / "docs" / "command-line.md").read_text()
    assert re.search(rf"^    .*_KESTREL_GATEWAY_COMPLETE={shell}_source kestrel-gateway", text, re.MULTILINE)
    variables = {"_KESTREL_GATEWAY_COMPLETE": f"{shell}_source", "PATH": os.environ["PATH"]}
    done = run_process(COMMAND, env=environment("http://x", **variables))
    assert done.returncode == 0, done.stderr
    assert part in done.stdout
    assert "kestrel-gateway" in done.stdout
