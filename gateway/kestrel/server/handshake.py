"""The first questions to a server on a new connection: its version, what it supports, and its status.

Owns the questions and the meaning of their answers. If a question ends the connection, as with imitators that do not
know a command, the next one is asked on another connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from pymemcache.exceptions import MemcacheError, MemcacheServerError

from gateway.kestrel.health import BY_STATUS, Health
from gateway.kestrel.wire.capabilities import Capabilities, by_version
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import Command, Connection, ConnectionLostError


@dataclass(frozen=True, slots=True)
class Introduction:
    """The results, and an idle connection."""

    connection: Connection
    version: str
    capabilities: Capabilities
    health: Health


async def introduce(connect: Callable[[], Awaitable[Connection]], timeout_s: float) -> Introduction:
    """Asks a server for its version, its features and its status.

    Raises: BackendUnavailable, ConnectionLostError or a MemcacheError; then no connection is left.
    """
    connection = await connect()
    version = await connection.call(timeout_s, KestrelClient.ask_version)
    capabilities = by_version(version)
    health = Health.UP
    if capabilities.confirm and not await _answers(connection, timeout_s, KestrelClient.refuse_confirm):
        capabilities = replace(capabilities, confirm=False)
        connection = await _again(connection, connect, timeout_s)
    if capabilities.status:
        try:
            health = BY_STATUS[await connection.call(timeout_s, KestrelClient.ask_status)]
        except (ConnectionLostError, MemcacheError) as error:
            _raise_if_final(error)
            capabilities = replace(capabilities, status=False)
            connection = await _again(connection, connect, timeout_s)
    return Introduction(connection, version, capabilities, health)


async def _answers(connection: Connection, timeout_s: float, command: Command) -> bool:
    """Whether the command is known: its answer leaves the connection open. Otherwise the connection is closed."""
    try:
        await connection.call(timeout_s, command)
        await connection.call(timeout_s, KestrelClient.ask_version)
    except (ConnectionLostError, MemcacheError) as error:
        _raise_if_final(error)
        return False
    return True


def _raise_if_final(error: Exception) -> None:
    """Raises errors that concern the server and not the command: it is silent, or it refuses the client."""
    if isinstance(error, MemcacheServerError) or (isinstance(error, ConnectionLostError) and error.timed_out):
        raise error


async def _again(connection: Connection, connect: Callable[[], Awaitable[Connection]], timeout_s: float) -> Connection:
    """A connection that answers, in place of one that did not."""
    connection.close()
    connection = await connect()
    await connection.call(timeout_s, KestrelClient.ask_version)
    return connection
