"""The pages command-line.md, workers.md and migrating.md show every help page as it is printed, and every exit code."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from gateway.cli import PROGRAM, cli
from gateway.client import help_page, jobs, options, queues, transfer
from gateway.migration import cli as migration
from gateway.work.cli import work

WIDTH = 100
COMMANDS = [*jobs.COMMANDS, *queues.COMMANDS, *transfer.COMMANDS, *migration.COMMANDS, work]


def documents(root: Path) -> str:
    """The text of the documents with help pages."""
    return "".join((root / "docs" / name).read_text() for name in ("command-line.md", "workers.md", "migrating.md"))


def help_of(command: click.Command) -> str:
    """What `--help` prints on a terminal of that width."""
    parent = cli.make_context(PROGRAM, [], resilient_parsing=True)
    return command.get_help(click.Context(command, parent, command.name, terminal_width=WIDTH, max_content_width=WIDTH))


def shown(text: str) -> dict[str, str]:
    """The help pages in the document, by command."""
    return dict(re.findall(r"^    \$ kestrel-gateway (\S+) --help\n((?:    .*\n|\n(?=    ))+)", text, re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: str(each.name))
def test_the_document_shows_the_help_page(root: Path, command: click.Command):
    """If it differs, copy the help page: COLUMNS=100 kestrel-gateway COMMAND --help."""
    page = shown(documents(root))[str(command.name)]
    lines = [line.removeprefix("    ").rstrip() for line in page.rstrip("\n").split("\n")]
    assert lines == [line.rstrip() for line in help_of(command).split("\n")]


def test_the_document_shows_the_first_page(root: Path):
    """Every command is in a section of it; none has to be looked for under another heading."""
    page = str(
        cli.make_context(PROGRAM, [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH).get_help()
    )
    indented = "".join(f"    {line}".rstrip() + "\n" for line in page.split("\n"))
    assert f"    $ kestrel-gateway --help\n{indented}" in (root / "docs" / "command-line.md").read_text()
    named = [name for names in help_page.SECTIONS.values() for name in names]
    assert sorted(named) == sorted(cli.commands)
    assert "..." not in page.partition("Run a gateway")[2]


def test_the_document_shows_no_other_command(root: Path):
    """A command that was removed or renamed has no page."""
    assert set(shown(documents(root))) == {str(each.name) for each in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: str(each.name))
def test_a_help_page_begins_like_a_manual(command: click.Command):
    """The first sentence says what the command does, and every option says what it is for."""
    assert command.help
    assert re.match(r"[A-Z][a-z]+,? .*?\.( |$|\n)", command.help, re.DOTALL), command.help
    for each in command.params:
        assert isinstance(each, click.Argument) or each.help, each.name  # type: ignore[attr-defined]


def test_the_document_has_the_exit_codes(root: Path):
    """Its table is the one that the code states."""
    table = dict(re.findall(r"^\| (\d+) \| (.*?) \|$", (root / "docs" / "command-line.md").read_text(), re.MULTILINE))
    stated = dict(re.findall(r"^ *(\d+) +(.*)$", str(options.__doc__), re.MULTILINE))
    assert table == stated
    assert {"1", "3", "4", "5"} == {
        str(each) for each in (options.FAILED, options.NOTHING, options.NOT_ALLOWED, options.AWAY)
    }
