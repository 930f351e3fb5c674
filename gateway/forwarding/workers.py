"""Commands between the workers of one machine, over Unix sockets in a private directory. Knows no leases.

Each worker listens on `{boot id}.sock`. A command or a result is one line of JSON; results come in any order and have
the number of their command. A link has one connection, which is opened when it is first needed and kept.

1. A command about a lease is sent only to the lease's owner, once. If a connection ends, every command that waits on it
   fails.
2. A worker is dead if its socket is gone or refuses, or if it ends a connection: its jobs went back to their queues
   with its Kestrel connections. Other errors, such as a process without a free descriptor, do not mean that it is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.errors import LeaseForgotten, OutcomeUnknown, OwnerUnavailable
from gateway.forwarding.commands import LeaseCommand, Result, pack_command, pack_result, unpack_command, unpack_result

log = logging.getLogger(__name__)

MAX_LINE = 1 << 20
MAX_UNSENT = 1 << 20
"""Bytes that may wait for a worker that does not read; above it nothing more is sent to that worker."""
SUFFIX = ".sock"

_GONE = "the worker that held the lease is gone; an unsettled job is back on its queue"
_UNREACHABLE = "the worker that holds the lease cannot be reached; send the request again"


class WorkerServer:
    """This worker's socket: executes the commands of the other workers."""

    def __init__(self, directory: Path, boot_id: str, execute: Callable[[LeaseCommand], Awaitable[Result]]) -> None:
        self._path = directory / (boot_id + SUFFIX)
        self._execute = execute
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=MAX_LINE)
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Accepts no more commands, and ends those in progress."""
        self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.TaskGroup() as commands:
                own = asyncio.current_task()
                assert own is not None
                self._tasks.add(own)
                own.add_done_callback(self._tasks.discard)
                while (line := await reader.readline()).endswith(b"\n"):  # without it: the worker was killed
                    number, command = unpack_command(line)
                    commands.create_task(self._answer(number, command, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        except* Exception:
            log.exception("a connection between workers failed")
        finally:
            writer.close()

    async def _answer(self, number: int, command: LeaseCommand, writer: asyncio.StreamWriter) -> None:
        writer.write(pack_result(number, await self._execute(command)))
        with contextlib.suppress(OSError):
            await writer.drain()


class WorkerLinks:
    """The other workers, by boot id."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        self._directory = directory
        self._own = boot_id
        self._links: dict[str, _WorkerLink] = {}

    async def ask(self, boot_id: str, command: LeaseCommand) -> Result:
        """The owner's result.

        Raises:
            LeaseForgotten: the owner is dead.
            OutcomeUnknown: it did not answer by the command's deadline; it will not begin the command after that. Or no
                answer can be read from it.
            OwnerUnavailable: it cannot be reached or does not read, and the command was not sent.
        """
        link = self._links.get(boot_id)
        if link is None or link.dead:
            link = self._links[boot_id] = _WorkerLink(self._directory / (boot_id + SUFFIX))
        try:
            async with asyncio.timeout(command.deadline_s - time.monotonic()):
                return await link.ask(command)
        except TimeoutError as exc:
            raise OutcomeUnknown("the worker that holds the lease did not answer in time") from exc
        finally:
            if link.dead and self._links.get(boot_id) is link:
                del self._links[boot_id]

    async def broadcast(self, command: LeaseCommand) -> list[Result | BaseException]:
        """One result for every other worker that is alive; an exception for one that does not answer.

        If the workers cannot be listed, one exception for all of them.
        """
        try:
            found = [Path(name) for name in os.listdir(self._directory)]  # noqa: PTH208 (iterdir is lazy)
        except OSError as exc:
            log.warning("the other workers cannot be listed: %s", exc)
            return [exc]
        others = [each.stem for each in found if each.suffix == SUFFIX and _is_boot_id(each.stem, self._own)]
        return await asyncio.gather(*(self.ask(other, command) for other in others), return_exceptions=True)

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()
        self._links.clear()


class _WorkerLink:
    """One connection and the commands that wait on it.

    dead: the connection has ended, or the worker is gone. gone: by rule 2 the worker is dead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Result]] = {}
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.dead = False
        self.gone = False

    async def ask(self, command: LeaseCommand) -> Result:
        """Raises what WorkerLinks.ask raises."""
        async with self._connecting:
            writer = self._writer or await self._connect()
        if self.dead:
            raise LeaseForgotten(_GONE) if self.gone else OwnerUnavailable(_UNREACHABLE)
        if writer.transport.get_write_buffer_size() > MAX_UNSENT:
            raise OwnerUnavailable("the worker that holds the lease is busy; send the request again")
        number = next(self._numbers)
        waiting: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            writer.write(pack_command(number, command))
            return await waiting
        finally:
            self._waiting.pop(number, None)

    async def _connect(self) -> asyncio.StreamWriter:
        """Raises LeaseForgotten, OwnerUnavailable."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_LINE)
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            self.dead = self.gone = True
            raise LeaseForgotten(_GONE) from exc
        except OSError as exc:
            log.warning("another worker cannot be reached: %s", exc)
            raise OwnerUnavailable(_UNREACHABLE) from exc
        self._writer = writer
        self._reading = asyncio.create_task(self._read(reader, writer))
        return writer

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                number, result = unpack_result(line)
                waiting = self._waiting.get(number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(result)
            self.gone = True
        except ConnectionError:
            self.gone = True
        except (OSError, ValueError, KeyError):
            log.exception("a connection to a worker failed")
        finally:
            self.dead = True
            writer.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(LeaseForgotten(_GONE) if self.gone else _unread())


def _unread() -> OutcomeUnknown:
    return OutcomeUnknown("no answer can be read from the worker that holds the lease")


def is_alive(directory: Path, boot_id: str) -> bool:
    """Whether the worker with the boot id is alive, as far as is known: false only by rule 2. Does not block."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(str(directory / (boot_id + SUFFIX)))
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError:
        return True  # its backlog is full, or this process has no free descriptor
    return True


def _is_boot_id(stem: str, own: str) -> bool:
    return len(stem) == 16 and stem != own
