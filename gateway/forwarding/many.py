"""Settles many leases of one request: those of one owner with one command, and the acks of one owner together.

1. Each settlement has one result, in the order of the request, and succeeds or fails by itself.
2. A command for another owner has at most GROUP settlements, so that it and its results fit into one message.
3. A replica of an earlier version does not know the command, and carries out nothing of it. It gets each settlement by
   itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import orjson

from gateway.errors import GatewayError, Internal
from gateway.fairness.turns import Turns
from gateway.forwarding.commands import LeaseCommand, ManyResults, NotUnderstoodError, Result, Verb
from gateway.leases.ahead import AckAhead
from gateway.leases.ids import Owner
from gateway.leases.lease import Lease, LeaseRecord
from gateway.leases.registry import Registry

GROUP: Final = 64
LONG_REASON: Final = 100
"""A settlement with a longer reason (in characters) is sent by itself."""
AT_ONCE: Final = 32
"""Settlements other than acks, and those sent by themselves, that run at a time."""
GROUPS_AT_ONCE: Final = 4
"""Commands to one owner that run at a time."""

T = TypeVar("T")
Outcome = LeaseRecord | GatewayError
One = Callable[[LeaseCommand], Awaitable[LeaseRecord]]


class ManySettlements:
    """registry: the leases of this worker. owner: which other worker holds the lease of a command; None: this one.

    one: carries out a single command. ask: sends a command to another owner. limit_s: longest time of a command.
    """

    def __init__(
        self,
        registry: Registry,
        turns: Turns,
        *,
        owner: Callable[[str, str], Owner | None],
        one: One,
        ask: Callable[[Owner, LeaseCommand], Awaitable[Result]],
        limit_s: float,
    ) -> None:
        self._registry = registry
        self._turns = turns
        self._owner = owner
        self._one = one
        self._ask = ask
        self._limit_s = limit_s

    async def settle(self, commands: Sequence[LeaseCommand], tenant: str) -> list[Outcome]:
        """One result for each command, an ACK, NACK or REJECT of the tenant. Cancelled: begun settlements continue."""
        outcomes: dict[int, Outcome] = {}
        places: dict[Owner | None, list[int]] = {}
        async for at in self._turns.slices(range(len(commands)), tenant):
            try:
                owner = self._owner(commands[at].subject, tenant)
            except GatewayError as error:
                outcomes[at] = error
            else:
                places.setdefault(owner, []).append(at)
        async with asyncio.TaskGroup() as tasks:
            for owner, of_owner in places.items():
                if owner is None:
                    tasks.create_task(self._here(commands, of_owner, outcomes, tenant))
                else:
                    tasks.create_task(self._there(owner, commands, of_owner, outcomes))
        return [outcomes[at] for at in range(len(commands))]

    async def _here(
        self, commands: Sequence[LeaseCommand], places: list[int], outcomes: dict[int, Outcome], tenant: str
    ) -> None:
        """The acks begin first, and are awaited last."""
        acks: list[tuple[int, Lease, AckAhead]] = []
        others: list[int] = []
        async for at in self._turns.slices(places, tenant):
            found = begun_ack(self._registry, commands[at])
            if found is None:
                others.append(at)
            else:
                acks.append((at, *found))
        await self._each(commands, others, outcomes)
        for at, lease, ahead in acks:
            outcomes[at] = await ended_ack(lease, ahead)

    async def _there(
        self, owner: Owner, commands: Sequence[LeaseCommand], places: list[int], outcomes: dict[int, Outcome]
    ) -> None:
        short = [at for at in places if len(commands[at].reason) <= LONG_REASON]
        groups = [short[start : start + GROUP] for start in range(0, len(short), GROUP)]
        alone = [at for at in places if len(commands[at].reason) > LONG_REASON]

        async def settle(group: list[int]) -> None:
            try:
                results = await self._group(owner, [commands[at] for at in group])
            except NotUnderstoodError:
                await self._each(commands, group, outcomes)
            else:
                outcomes.update(zip(group, results, strict=True))

        await some_at_once(settle, groups, GROUPS_AT_ONCE)
        await self._each(commands, alone, outcomes)

    async def _group(self, owner: Owner, commands: list[LeaseCommand]) -> Sequence[Outcome]:
        """Raises NotUnderstoodError."""
        deadline_s = time.monotonic() + self._limit_s
        first = commands[0]
        try:
            result = await self._ask(
                owner,
                LeaseCommand(Verb.SETTLE_MANY, first.subject, deadline_s, tenant=first.tenant, reason=pack(commands)),
            )
        except GatewayError as error:
            result = error
        if isinstance(result, ManyResults) and len(result.results) == len(commands):
            return result.results
        return [result if isinstance(result, GatewayError) else Internal("unexpected reply from a worker")] * len(
            commands
        )

    async def _each(
        self, commands: Sequence[LeaseCommand], places: Iterable[int], outcomes: dict[int, Outcome]
    ) -> None:
        async def settle(at: int) -> None:
            outcomes[at] = await outcome_of(
                self._one, replace(commands[at], deadline_s=time.monotonic() + self._limit_s)
            )

        await some_at_once(settle, places, AT_ONCE)


async def settle_group(command: LeaseCommand, registry: Registry, one: One) -> ManyResults:
    """Carries out another worker's SETTLE_MANY. one: checks and carries out a single command."""
    commands = unpack(command)
    outcomes: dict[int, Outcome] = {}
    acks = {at: found for at, each in enumerate(commands) if (found := begun_ack(registry, each)) is not None}

    async def settle(at: int) -> None:
        outcomes[at] = await outcome_of(one, commands[at])

    await some_at_once(settle, [at for at in range(len(commands)) if at not in acks], AT_ONCE)
    for at, (lease, ahead) in acks.items():
        outcomes[at] = await ended_ack(lease, ahead)
    return ManyResults(tuple(outcomes[at] for at in range(len(commands))))


def begun_ack(registry: Registry, command: LeaseCommand) -> tuple[Lease, AckAhead] | None:
    """Begins the ack of an open lease that is held here; None if it is another command, or needs to be looked at."""
    if command.verb is not Verb.ACK or not registry.leases.is_open(command.subject, command.tenant):
        return None
    lease, ahead = registry.leases.get(command.subject), registry.ack_ahead(command.subject)
    if lease is None or ahead is None:
        return None
    ahead.begin()
    return lease, ahead


async def ended_ack(lease: Lease, ahead: AckAhead) -> Outcome:
    try:
        await ahead.done()
    except GatewayError as error:
        return error
    return lease.record()


async def outcome_of(one: One, command: LeaseCommand) -> Outcome:
    try:
        return await one(command)
    except GatewayError as error:
        return error


async def some_at_once(work: Callable[[T], Awaitable[None]], of: Iterable[T], most: int) -> None:
    """Does the work for each value, `most` at a time, beginning in their order."""
    values = list(of)
    waiting = iter(values)

    async def worker() -> None:
        for each in waiting:
            await work(each)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(most, len(values))):
            tasks.create_task(worker())


def pack(commands: Sequence[LeaseCommand]) -> str:
    return orjson.dumps(
        [(each.verb.value, each.subject, each.length_s, each.position, each.reason) for each in commands]
    ).decode()


def unpack(command: LeaseCommand) -> list[LeaseCommand]:
    """Raises ValueError or TypeError if no gateway can have written it."""
    return [
        LeaseCommand(
            Verb(verb), subject, command.deadline_s, length_s, position, reason, command.tenant, hops=command.hops
        )
        for verb, subject, length_s, position, reason in orjson.loads(command.reason)
    ]
