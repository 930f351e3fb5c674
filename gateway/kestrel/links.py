"""The links to the servers: one per member, and those of former members until their open reads have ended.

Owns which links exist. Does not know what they are asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence

from gateway.kestrel.address import Address
from gateway.kestrel.health import Health
from gateway.kestrel.link import ServerLink
from gateway.kestrel.puts.batches import Writer

log = logging.getLogger(__name__)


class ServerLinks:
    """Iterates over all links. members: those of current members. connect: makes and starts a link."""

    def __init__(self, connect: Callable[[Address], ServerLink]) -> None:
        self._connect = connect
        self._leaving: dict[ServerLink, asyncio.Task[None]] = {}
        self.members: list[ServerLink] = []

    def __iter__(self) -> Iterator[ServerLink]:
        return iter([*self.members, *self._leaving])

    def member(self, name: str) -> ServerLink | None:
        """The member with that name (Address.name)."""
        return next((each for each in self.members if each.address.name == name), None)

    def set_members(self, addresses: Sequence[Address], read_only: Collection[Address]) -> bool:
        """Uses these servers from now on; keeps the links that there are. Returns whether the members changed.

        read_only: those of them that should get no writes. The caller calls `retire` for each former member.
        """
        known = {server.address: server for server in self.members}
        members = [known.get(address) or self._connect(address) for address in dict.fromkeys(addresses)]
        for server in members:
            server.health.spare_writes(server.address in read_only)
        if members == self.members:
            return False
        self.members = members
        return True

    def retire(self, writer: Writer) -> None:
        """Closes the link of a former member, once its writer and its open reads have ended."""
        log.info("Kestrel at %s is no longer a member", writer.server.address)
        self._leaving[writer.server] = asyncio.create_task(self._retire(writer))

    def warn_of_duplicates(self, server: ServerLink) -> None:
        """Logs each other member that is the same server by another address."""
        for other in self.members if server.health.state is Health.UP and server.health.peer else ():
            if other is not server and other.health.answers and other.health.peer == server.health.peer:
                log.warning(
                    "Kestrel at %s and at %s is one server, %s: it gets twice the load, and figures count it twice; "
                    "remove one of the two addresses",
                    other.address, server.address, server.health.peer,
                )  # fmt: skip

    async def stop_leaving(self) -> None:
        """Waits no longer for open reads of former members."""
        for task in self._leaving.values():
            task.cancel()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    async def close(self) -> None:
        """Closes every link."""
        for server in self:
            await server.close()

    async def _retire(self, writer: Writer) -> None:
        """Returns when the writer's server has no open read and no command of this worker."""
        await writer.close()
        await writer.server.leave()
        await writer.server.close()
        del self._leaving[writer.server]
