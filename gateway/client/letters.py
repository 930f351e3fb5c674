"""Single dead letters of a queue, from a terminal: listed, shown, deleted, moved back."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import click

from gateway.client import options, tables
from gateway.client.api import GatewayApi, queue_path
from gateway.client.failures import CallFailed
from gateway.common.counted import counted

_MOST: Final = 100
"""Dead letters that a gateway lists at most. Source: openapi.yaml, listDeadLetters."""
_COLUMNS: Final = {"letter": "LETTER", "dead_at": "SINCE", "attempts": "ATTEMPTS", "reason": "REASON", "error": "ERROR"}


def show_list(api: GatewayApi, queue: str, count: int, *, as_json: bool) -> None:
    """Prints the oldest ones: a table, or one line of JSON each."""
    answer = _listed(api, queue, max(1, min(count, _MOST)), payload=False)
    if as_json:
        for each in answer["letters"]:
            options.show_json(each)
        return
    rows = [["" if each[name] is None else each[name] for name in _COLUMNS] for each in answer["letters"]]
    tables.show(list(_COLUMNS.values()), rows)
    if answer["left"]:
        options.notice(counted(answer["left"], "more dead letter"))


def act(api: GatewayApi, queue: str, letter: str, action: str, *, yes: bool) -> None:
    """Shows, deletes or moves back one of them. Raises CallFailed."""
    path = f"{queue_path(queue)}/dead-letters/jobs/{quote(letter, safe='')}"
    if action == "show":
        options.show_json(_found(api, queue, letter))
    elif action == "delete":
        options.confirm(f"Delete the dead letter {letter} of {queue}?", yes=yes)
        api.call("DELETE", path)
        click.echo(f"dead letter {letter} of {queue} deleted")
    else:
        answer = api.call("POST", f"{path}/redrive").json()
        click.echo(f"{letter} moved to {queue}" if answer["redriven"] else f"{letter} had expired and was dropped")


def _found(api: GatewayApi, queue: str, letter: str) -> dict[str, Any]:
    """The dead letter with its payload; without it if those before it are too large together."""
    for payload in (True, False):
        for each in _listed(api, queue, _MOST, payload=payload)["letters"]:
            if each["letter"] == letter:
                return dict(each)
    raise CallFailed(
        "dead-letter-not-found",
        f"{letter} is not one of the {_MOST} oldest dead letters of {queue}; --list shows them",
        status=404,
        retryable=False,
    )


def _listed(api: GatewayApi, queue: str, count: int, *, payload: bool) -> dict[str, Any]:
    params = {"max": count} | ({"payload": "true"} if payload else {})
    return dict(api.call("GET", f"{queue_path(queue)}/dead-letters/jobs", params=params).json())
