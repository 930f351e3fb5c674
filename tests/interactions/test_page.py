"""docs/interactions.md says what the tests show.

A test here is named `test_CAPABILITY_SITUATION`, and its docstring is the cell. `ELSEWHERE` has the cells that other
tests show.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.api import test_delay, test_pause, test_preferred, test_scopes
from tests.cluster import test_preferred as test_preferred_on_servers
from tests.delay import test_holding
from tests.fanout import test_http as test_fanout
from tests.fanout import test_members
from tests.interactions import test_many, test_one_server, test_tenants, test_two_servers
from tests.streams import test_stream

CAPABILITIES = {
    "Delay": "delay",
    "Back-off": "back_off",
    "Pause": "pause",
    "`max_in_flight`": "limits",
    "`rate`": "rate",
    "Subscriptions": "fanout",
    "Several queues": "several",
}
"""The columns."""

SITUATIONS = {
    "Raw queue": "raw_queue",
    "Subscription": "subscription",
    "Ring queue": "ring_queue",
    "Full queue": "full_queue",
    "`Ordering-Key`": "ordering_key",
    "`Idempotency-Key`": "idempotency_key",
    "`key` in a policy": "own_key",
    "Dead letters": "dead_letters",
    "Tenants": "tenants",
    "Several servers": "several_servers",
    "[Batches](batches.md)": "batches",
    "[Streams](streams.md)": "streams",
}
"""The rows."""

ELSEWHERE: dict[str, tuple[Callable[..., Any], str]] = {
    "delay_raw_queue": (test_delay.test_raw_queues_and_tenants, "The job arrives byte for byte."),
    "delay_subscription": (
        test_fanout.test_a_delayed_job_is_copied_when_it_is_due,
        "The job is copied when it is due.",
    ),
    "delay_full_queue": (
        test_holding.test_a_full_queue_gets_its_job_later_and_holds_up_nobody,
        "The job tries again every 5 seconds. Jobs behind it do not wait.",
    ),
    "delay_ordering_key": (
        test_delay.test_an_ordering_key_does_not_go_with_a_delay,
        "`400`: jobs with a delay have no order.",
    ),
    "delay_idempotency_key": (
        test_delay.test_a_repeated_request_with_a_key_is_delayed_once,
        "A repeated request gets the first answer and its `due_at`.",
    ),
    "delay_own_key": (
        test_holding.test_policies_hold_on_arrival,
        "The job arrives under the key that the policy has then.",
    ),
    "delay_tenants": (
        test_delay.test_raw_queues_and_tenants,
        "The job arrives on the queue of its tenant only.",
    ),
    "delay_several_servers": (
        test_holding.test_a_read_only_server_s_jobs_move_to_another,
        "The jobs of a server that becomes `readonly` move to another server.",
    ),
    "pause_raw_queue": (
        test_pause.test_a_raw_queue_and_its_dead_letters,
        "The jobs wait, and come in order afterwards.",
    ),
    "pause_subscription": (
        test_pause.test_a_subscription_is_paused_by_its_own_name,
        "A pause of a queue does not pause its subscriptions. Each is paused by its own name.",
    ),
    "pause_dead_letters": (
        test_pause.test_a_raw_queue_and_its_dead_letters,
        "Reject and redrive work. A redriven job waits.",
    ),
    "pause_tenants": (test_scopes.test_a_tenant_pauses_its_own_queue_only, "A tenant pauses its own queue only."),
    "fanout_raw_queue": (
        test_fanout.test_a_subscription_has_attempts_leases_and_dead_letters_of_its_own,
        "Each copy is byte for byte.",
    ),
    "fanout_full_queue": (
        test_fanout.test_a_full_subscription_refuses_the_job_for_all,
        "`503 queue-full`, and nobody gets the job. Kestrel 2.4.8 differs: see [subscriptions](fanout.md).",
    ),
    "fanout_own_key": (
        test_fanout.test_a_subscription_of_a_queue_with_a_key,
        "The key of a subscription begins with that of its queue.",
    ),
    "fanout_dead_letters": (
        test_fanout.test_a_subscription_has_attempts_leases_and_dead_letters_of_its_own,
        "Each subscription has its own. A redrive reaches that subscription only.",
    ),
    "fanout_several_servers": (
        test_members.test_a_subscription_is_complete_when_every_member_has_it,
        "`PUT` answers `503` until every server has the subscription.",
    ),
    "several_raw_queue": (
        test_preferred.test_a_queue_at_its_limit_counts_as_empty,
        "Its jobs are served like any others.",
    ),
    "several_subscription": (
        test_preferred.test_subscriptions_can_be_named,
        "Subscriptions can be named. An unknown one is a `404`.",
    ),
    "several_tenants": (
        test_scopes.test_next_from_several_queues_needs_a_key_for_each,
        "The names are those of the key's tenant. The key must allow every one.",
    ),
    "pause_streams": (
        test_stream.test_a_paused_queue_gives_nothing_until_it_is_resumed,
        "The stream stays open, and goes on when the queue is resumed.",
    ),
    "several_streams": (
        test_stream.test_several_queues,
        "A stream of several queues gives the jobs of the first one first.",
    ),
    "several_several_servers": (
        test_preferred_on_servers.test_the_preference_holds_and_nothing_is_stranded,
        "Every server is asked for the earlier queues before a later one is served.",
    ),
}
"""Cells that a test of another module shows: the test, and the cell's text."""


def page_cells(root: Path) -> dict[str, str]:
    """The cells of the page's table, by the names that their tests have."""
    lines = [each for each in (root / "docs" / "interactions.md").read_text().splitlines() if each.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert head[1:] == list(CAPABILITIES)
    assert [row[0] for row in rows] == list(SITUATIONS)
    return {
        f"{CAPABILITIES[column]}_{SITUATIONS[row]}": cell
        for row, *cells in rows
        for column, cell in zip(head[1:], cells, strict=True)
    }


def test_each_cell_of_the_page_is_what_a_test_says(root: Path) -> None:
    """Each cell has one test, here or elsewhere, which `make test` runs, and its text is the cell."""
    here = {
        name.removeprefix("test_"): re.sub(r"\s+", " ", test.__doc__)
        for module in (test_many, test_one_server, test_two_servers, test_tenants)
        for name, test in vars(module).items()
        if name.startswith("test_")
    }
    elsewhere = {name: text for name, (_, text) in ELSEWHERE.items()}
    assert not here.keys() & elsewhere.keys()
    assert page_cells(root) == here | elsewhere
    for test, _ in ELSEWHERE.values():
        assert "slow" not in {mark.name for mark in getattr(test, "pytestmark", [])}
