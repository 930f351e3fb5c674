"""Moves delayed jobs on all servers, in every worker, from the start to the drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.delivery.backend import BackendMember
from gateway.delivery.delay.held_job_mover import HeldJobMover
from gateway.delivery.delay.holding import HoldingQueues
from gateway.delivery.delay.levels import Hop
from gateway.delivery.delay.server_watch import ServerWatch

MEMBERS_S: Final = 1.0
"""A new member is noticed within this time."""


class DelayedJobs:
    """Watches the holding queues of every server. servers: those that are members now."""

    def __init__(
        self, servers: Callable[[], Sequence[BackendMember]], holding: HoldingQueues, mover: HeldJobMover
    ) -> None:
        self._servers = servers
        self._holding = holding
        self._mover = mover
        self._watches: dict[BackendMember, ServerWatch] = {}
        self._stopping = asyncio.Event()
        holding.on_held(self._held)

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many items each server has dropped from holding queues by itself, by its name."""
        return {server.name: watch.dropped for server, watch in self._watches.items()}

    async def run(self) -> None:
        """Returns after `close`, when the moves in progress have ended. Cancelled: they are interrupted."""
        async with asyncio.TaskGroup() as tasks:
            while not self._stopping.is_set():
                self._watch_members(tasks)
                await self._holding.clock.wait(self._stopping, MEMBERS_S)
            for watch in self._watches.values():
                watch.close()

    def close(self) -> None:
        """Begins no further move."""
        self._stopping.set()

    def _watch_members(self, tasks: asyncio.TaskGroup) -> None:
        members = self._servers()
        for server in members:
            if server not in self._watches:
                watch = ServerWatch(server, self._holding, self._mover, self._others_write(server))
                self._watches[server] = watch
                tasks.create_task(watch.run(), name=f"delayed jobs on {server.name}")
        for server in [each for each in self._watches if each not in members]:
            self._watches.pop(server).close()

    def _others_write(self, server: BackendMember) -> Callable[[], bool]:
        return lambda: any(each.writes for each in self._watches if each != server)

    def _held(self, hop: Hop) -> None:
        """This worker has put a job on a holding queue, on some server."""
        clock = self._holding.clock
        at_s = clock.monotonic_s() + hop.until_ms / 1000 - clock.wall_s()
        for watch in self._watches.values():
            watch.look_at(hop.level, at_s)
