"""The commands for queues: their figures, dead letters, pauses and subscriptions; flushing and deleting them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.client import options
from gateway.client.failures import CallFailed
from gateway.common.counted import counted
from gateway.common.flags import QueueName, Rate, Seconds, WholeNumber

if TYPE_CHECKING:
    from gateway.client.api import GatewayApi

_FIGURES: Final = {
    "items": "ITEMS",
    "bytes": "BYTES",
    "age_s": "AGE",
    "open_reads": "LEASED",
    "waiters": "WAITERS",
    "total_items": "STORED",
    "expired_items": "EXPIRED",
}
"""What the table shows of a queue, and the headings. The JSON has every figure."""


@click.command()
@click.option("--filter", "filters", multiple=True, help="only queues such as items>100, name~img-* (repeatable)")
@click.option(
    "--sort", default="name", help="field to sort by, such as age_s; -items sorts in descending order [default name]"
)
@click.option("--watch", is_flag=True, help="update the table until the command is interrupted")
@click.option(
    "--every", "every_s", type=Seconds(), default=2.0, help="with --watch: seconds between updates [default 2]"
)
@click.option("--json", "as_json", is_flag=True, help="print one line of JSON for each queue")
@options.calls
def queues(*, filters: tuple[str, ...], sort: str, watch: bool, every_s: float, as_json: bool, api: GatewayApi) -> None:
    """List the queues with their figures.

    \b
      kestrel-gateway queues --filter 'items>100' --sort -age_s
      kestrel-gateway queues --watch
      kestrel-gateway queues --json | jq -r 'select(.open_reads > 0).queue'

    ITEMS are waiting jobs, BYTES their size, AGE the seconds that the oldest has waited, LEASED the jobs under a lease,
    WAITERS the reads that wait, STORED all jobs ever stored, EXPIRED the jobs that expired, DEAD the dead letters,
    PAUSED whether no job is delivered.

    Columns are separated by tabs if the output is not a terminal.
    """  # noqa: D301 (click wants the character itself)
    if not watch:
        options.refuse_unused("without --watch", "every_s")
    if every_s < 0.1:
        raise click.UsageError(f"every: {every_s:g} is below the minimum of 0.1 seconds")
    if as_json:
        while True:
            for each in _listed(api, filters, sort):
                options.show_json(each)
            sys.stdout.flush()
            if not watch:
                return
            time.sleep(every_s)
    from gateway.client import tables  # noqa: PLC0415 (`--help` stays quick)

    headings = ["QUEUE", *_FIGURES.values(), "DEAD", "PAUSED"]
    if watch:
        tables.watch(headings, _again(api, filters, sort, every_s))
    else:
        tables.show(headings, [_listed_row(each) for each in _listed(api, filters, sort)])


@click.command()
@click.argument("queue", type=QueueName())
@click.option("--servers", is_flag=True, help="also print the figures of each Kestrel server")
@click.option("--json", "as_json", is_flag=True, help="print the gateway's answer as JSON")
@options.calls
def queue(queue: str, *, servers: bool, as_json: bool, api: GatewayApi) -> None:
    """Show the figures of QUEUE. The exit code is 3 if it does not exist."""
    from gateway.client import tables  # noqa: PLC0415 (`--help` stays quick)

    answer = api.call("GET", _path(queue), params={"detail": "servers"} if servers else {}).json()
    if as_json:
        options.show_json(answer)
        return
    rows = [[name, value] for name, value in answer.items() if not isinstance(value, list | dict)]
    if pause := answer.get("pause"):
        rows.append(["paused", pause.get("reason") or "yes"])
    tables.show(["FIGURE", "VALUE"], rows)
    if servers:
        tables.show(["SERVER", *_FIGURES.values()], [[each["server"], *_row(each)[1:]] for each in answer["servers"]])


_LETTER_HINTS: Final = {
    "list": "did you mean --list N?",
    "peek": "did you mean --peek?",
    "delete": "did you mean LETTER delete, or --delete for all of them?",
    "show": "did you mean LETTER show?",
    "redrive": "did you mean LETTER redrive, or the command `redrive` for all of them?",
}
"""What to say to an action in the place of LETTER."""


@click.command("dead-letters")
@click.argument("queue", type=QueueName())
@click.argument("letter", required=False)
@click.argument("action", required=False, type=click.Choice(["show", "delete", "redrive"]))
@click.option("--peek", is_flag=True, help="print the oldest dead letter, which says why it failed, as JSON")
@click.option(
    "--list",
    "listed",
    type=WholeNumber(1, 100),
    metavar="N",
    help="list the N oldest dead letters, with reasons; at most 100",
)
@click.option("--delete", is_flag=True, help="delete all dead letters of the queue")
@click.option("--yes", is_flag=True, help="delete without asking")
@click.option("--json", "as_json", is_flag=True, help="print the gateway's answer as JSON")
@options.calls
def dead_letters(
    queue: str,
    letter: str | None,
    action: str | None,
    *,
    peek: bool,
    listed: int | None,
    delete: bool,
    yes: bool,
    as_json: bool,
    api: GatewayApi,
) -> None:
    """Count, list, show or delete the dead letters of QUEUE: jobs that failed too often or were rejected.

    \b
      kestrel-gateway dead-letters emails --list 20
      kestrel-gateway dead-letters emails LETTER show          show the one with this LETTER in the list
      kestrel-gateway dead-letters emails LETTER redrive       move it back to its queue; `redrive` moves all
      kestrel-gateway dead-letters emails LETTER delete

    The exit code is 3 if there is no such dead letter, and with --peek if the queue has none.
    """  # noqa: D301 (click wants the character itself)
    from gateway.client import letters, tables  # noqa: PLC0415 (`--help` stays quick)

    path = f"{_path(queue)}/dead-letters"
    if letter in _LETTER_HINTS and action is None:
        raise click.UsageError(f"{letter} is not the id of a dead letter; {_LETTER_HINTS[letter]}")
    if peek + delete + (listed is not None) + (letter is not None) > 1:
        raise click.UsageError("LETTER, --peek, --list and --delete exclude each other; give only one of them")
    if action in ("delete", "redrive"):
        options.refuse_unused(f"with {action}", "as_json")
    if letter is not None:
        letters.act(api, queue, letter, action or "show", yes=yes)
    elif listed is not None:
        letters.show_list(api, queue, listed, as_json=as_json)
    elif peek:
        options.show_json(api.call("GET", f"{path}/peek").json())
    elif delete:
        options.confirm(f"Delete all dead letters of {queue}?", yes=yes)
        answer = api.call("DELETE", path).json()
        if as_json:
            options.show_json(answer)
        else:
            click.echo(f"{counted(answer['deleted'], 'dead letter')} of {queue} deleted")
    else:
        answer = api.call("GET", path).json()
        if as_json:
            options.show_json(answer)
        else:
            tables.show(["FIGURE", "VALUE"], [[name, value] for name, value in answer.items() if value is not None])


@click.command()
@click.argument("queue", type=QueueName())
@click.option("--max", "most", type=WholeNumber(1), help="maximum number of dead letters to move [default: all]")
@click.option("--to", help="queue that gets the jobs [default: the one that they come from]")
@click.option("--reason", type=click.Choice(["rejected", "max-attempts"]), help="move only those with this reason")
@click.option(
    "--rate", type=Rate(), metavar="N", help="maximum number of dead letters to move in a second [default: no limit]"
)
@options.calls
def redrive(
    queue: str, *, most: int | None, to: str | None, reason: str | None, rate: float | None, api: GatewayApi
) -> None:
    """Move the dead letters of QUEUE back to it, the oldest first. They begin again with their first attempt."""
    chosen = {name: value for name, value in (("to", to), ("reason", reason), ("rate", rate)) if value is not None}
    redriven = expired = 0
    while True:
        left_to_move = 10_000 if most is None else min(most - redriven - expired, 10_000)
        try:
            answer = api.call("POST", f"{_path(queue)}/redrive", json={"max": left_to_move, **chosen}).json()
        except KeyboardInterrupt:
            options.notice(f"interrupted; the gateway may still move up to {counted(left_to_move, 'dead letter')}")
            raise
        moved = answer["redriven"] + answer["expired"]
        redriven, expired = redriven + answer["redriven"], expired + answer["expired"]
        if not moved or not answer["left"] or (most is not None and redriven + expired >= most):
            break
    tail = f", {expired} expired and dropped" if expired else ""
    click.echo(f"{counted(redriven, 'dead letter')} moved to {to or queue}{tail}, {answer['left']} left")
    if answer["left"] and reason is None and (most is None or redriven + expired < most):
        options.notice(f"the others could not be moved now; {to or queue} may be full: try again later")
        sys.exit(options.AWAY)


@click.command()
@click.argument("queue", type=QueueName())
@click.option("--yes", is_flag=True, help="do not ask")
@options.calls
def flush(queue: str, *, yes: bool, api: GatewayApi) -> None:
    """Remove every waiting job of QUEUE. Jobs under a lease stay with their consumers.

    Delayed jobs are not on the queue yet: they arrive when they are due.
    """
    options.confirm(f"Remove every waiting job of {queue}?", yes=yes)
    api.call("POST", f"{_path(queue)}/flush")
    click.echo(f"{queue} is empty")


@click.command()
@click.argument("queue", type=QueueName())
@click.option("--yes", is_flag=True, help="do not ask")
@options.calls
def delete(queue: str, *, yes: bool, api: GatewayApi) -> None:
    """Delete QUEUE with all its jobs, including those under a lease. Its dead letters remain.

    Delayed jobs are not on the queue yet: they create it again when they are due.
    """
    options.confirm(f"Delete {queue} with all its jobs?", yes=yes)
    answer = api.call("DELETE", _path(queue)).json()
    click.echo(f"{queue} is deleted, {counted(answer['leases_ended'], 'lease')} ended")


@click.command()
@click.argument("queue", type=QueueName())
@click.option("--for", "for_s", type=Seconds(), help="seconds after which the pause ends by itself [default: never]")
@click.option("--reason", help="why the queue is paused; shown with its figures")
@options.calls
def pause(queue: str, *, for_s: float | None, reason: str | None, api: GatewayApi) -> None:
    """Pause QUEUE: jobs are accepted, and no consumer of any gateway gets one until `resume`."""
    body = {} if reason is None else {"reason": reason}
    if for_s is not None:
        ends = datetime.fromtimestamp(time.time() + for_s, UTC)
        body["until"] = ends.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    answer = api.call("PUT", f"{_path(queue)}/pause", json=body).json()
    click.echo(f"{queue} is paused" + (f" until {answer['until']}" if answer.get("until") else ""))


@click.command()
@click.argument("queue", type=QueueName())
@options.calls
def resume(queue: str, *, api: GatewayApi) -> None:
    """End the pause of QUEUE. The exit code is 1 if its policy pauses it: then it stays paused."""
    missing: CallFailed | None = None
    was_paused = True  # for a key that may not see the queue
    try:
        was_paused = bool(api.call("GET", _path(queue)).json().get("pause"))
    except CallFailed as failed:
        if failed.status == 404:
            missing = failed
        elif failed.status != 403:
            raise
    answer = api.call("DELETE", f"{_path(queue)}/pause").json()
    if missing is not None:  # only now: the pause of a queue that is gone has ended, too
        raise missing
    if answer["paused"]:
        options.notice(f"{queue} stays paused by its policy")
        sys.exit(options.FAILED)
    click.echo(f"{queue} is resumed" if was_paused else f"{queue} was not paused")


@click.command()
@click.argument("queue", type=QueueName())
@click.option("--json", "as_json", is_flag=True, help="print one line of JSON for each subscription")
@options.calls
def subscriptions(queue: str, *, as_json: bool, api: GatewayApi) -> None:
    """List the subscriptions of QUEUE. Each gets a copy of every job, and is read as QUEUE+CHILD."""
    from gateway.client import tables  # noqa: PLC0415 (`--help` stays quick)

    found = api.call("GET", f"{_path(queue)}/subscriptions").json()["subscriptions"]
    if as_json:
        for each in found:
            options.show_json(each)
    else:
        tables.show(["SUBSCRIPTION", *_FIGURES.values()], [_row({**each, "queue": each["name"]}) for each in found])


@click.command()
@click.argument("queue", type=QueueName())
@click.argument("child", type=QueueName())
@options.calls
def subscribe(queue: str, child: str, *, api: GatewayApi) -> None:
    """Create the subscription CHILD of QUEUE, which gets every job that is enqueued from now on."""
    answer = api.call("PUT", f"{_path(queue)}/subscriptions/{_name(child)}").json()
    for warning in answer["warnings"]:
        options.notice(warning)
    click.echo(f"{answer['name']} " + ("is created" if answer["created"] else "exists already"))


@click.command()
@click.argument("queue", type=QueueName())
@click.argument("child", type=QueueName())
@click.option("--yes", is_flag=True, help="do not ask")
@options.calls
def unsubscribe(queue: str, child: str, *, yes: bool, api: GatewayApi) -> None:
    """Delete the subscription CHILD of QUEUE with its jobs."""
    options.confirm(f"Delete the subscription {queue}+{child} with its jobs?", yes=yes)
    answer = api.call("DELETE", f"{_path(queue)}/subscriptions/{_name(child)}").json()
    click.echo(f"{answer['queue']} is deleted, {counted(answer['leases_ended'], 'lease')} ended")


def _listed(api: GatewayApi, filters: tuple[str, ...], sort: str) -> Iterator[dict[str, Any]]:
    """Every queue, page by page."""
    params: dict[str, Any] = {"filter": list(filters), "sort": sort}
    path: str | None = "/queues"
    while path:
        page = api.call("GET", path, params=params or None).json()
        yield from page["queues"]
        path, params = _relative(api, page["next"]), {}


def _relative(api: GatewayApi, path: str | None) -> str | None:
    """The path of the next page, without the path that the URL of the gateway ends with."""
    from urllib.parse import urlsplit  # noqa: PLC0415

    root = urlsplit(api.url).path
    return path.removeprefix(root) if path else None


def _again(api: GatewayApi, filters: tuple[str, ...], sort: str, every_s: float) -> Iterator[list[list[Any]]]:
    """The rows, now and every `every_s`. A gateway that is unreachable for a while does not end it."""
    while True:
        try:
            yield [_listed_row(each) for each in _listed(api, filters, sort)]
        except CallFailed as failed:
            if not failed.retryable:
                raise
            options.notice(str(failed))
        time.sleep(every_s)


def _row(figures: dict[str, Any]) -> list[Any]:
    return [figures["queue"], *(figures[name] for name in _FIGURES)]


def _listed_row(figures: dict[str, Any]) -> list[Any]:
    return [*_row(figures), figures.get("dead_letters"), "pause" in figures]  # gateway 0.1.0 does not tell them


def _name(child: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415

    return quote(child, safe="")


def _path(queue: str) -> str:
    from gateway.client.api import queue_path  # noqa: PLC0415 (`--help` stays quick)

    return queue_path(queue)


COMMANDS: Final = (
    queues,
    queue,
    dead_letters,
    redrive,
    flush,
    delete,
    pause,
    resume,
    subscriptions,
    subscribe,
    unsubscribe,
)
