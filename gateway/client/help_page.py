"""The first help page: every command under the heading of what it is for, with its first sentence."""

from __future__ import annotations

from typing import Final

import click

SECTIONS: Final = {
    "Run a gateway": ("serve", "broker", "doctor", "check", "keys", "healthcheck", "backup"),
    "Jobs": ("put", "next", "peek", "ack", "nack", "reject", "extend", "work"),
    "Queues": (
        *("queues", "queue", "subscriptions", "subscribe", "unsubscribe", "dead-letters", "redrive"),
        *("pause", "resume", "flush", "delete"),
    ),
    "Move jobs": ("export", "import", "import-journal", "forward"),
}
_OTHER: Final = "Other commands"
_LIMIT: Final = 500
"""Longer than any first sentence: none is cut off."""


class CommandSections(click.Group):
    """A group whose help page has sections."""

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the sections. A command that is in none of them has one of its own."""
        left = dict(self.commands)
        found = {title: {name: left.pop(name) for name in names if name in left} for title, names in SECTIONS.items()}
        for title, commands in {**found, _OTHER: left}.items():
            rows = [(name, each.get_short_help_str(_LIMIT)) for name, each in commands.items() if not each.hidden]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
