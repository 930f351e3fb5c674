"""docs/broker.md says what the code does: flags, limits and commands are compared."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click

from gateway.broker import __main__ as command
from gateway.broker.config import QueueLimits, load
from gateway.broker.memcache import codec

DOCS = (Path(__file__).parents[2] / "docs" / "broker.md").read_text("utf-8")


def test_the_table_of_flags_is_the_command_s() -> None:
    """The table of flags is the command's, without those that only `serve` gives."""
    shown = (option for option in command.broker.params if isinstance(option, click.Option) and not option.hidden)
    assert set(re.findall(r"^\| `(--[\w-]+)` \|", DOCS, re.MULTILINE)) == {name for each in shown for name in each.opts}


def test_the_table_of_limits_is_the_dataclass() -> None:
    """The table of limits is the dataclass, and the example can be read."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (?:none|false) \|", DOCS, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == {
        f.name for f in dataclasses.fields(QueueLimits)
    }


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    """The example configuration is one."""
    text = "\n".join(re.findall(r"^    (.*)$", DOCS, re.MULTILINE))
    (tmp_path / "broker.toml").write_text(text)
    config = load(tmp_path / "broker.toml")
    assert config.limits(b"emails+audit") == QueueLimits(max_items=1000, max_age=3600.0, expire_to_queue="late")
    assert config.limits(b"other") == QueueLimits(max_items=1000000)


def test_the_table_has_every_command() -> None:
    """Every command of the codec is in the table."""
    table = DOCS.split("## Commands")[1].split("## Flags")[0]
    named = set(re.findall(r"`([a-z_]+)", table))
    assert {verb.decode() for verb in (*codec._PLAIN, *codec._PARSERS, b"set")} - {"gets"} <= named
