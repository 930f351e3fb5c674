"""Commands between replicas, over HTTP: only to the signed owner of a lease, sealed, and with a deadline.

http_client.py speaks HTTP/1.1, only to gateways of the same cluster: it follows no redirect, uses no proxy, and sends
nothing of the client's request (its key, its headers). Knows no leases.

1. A command has its deadline by the owner's own clock, which the owner reports in each answer. So no two clocks need to
   agree, and an owner that was frozen refuses late commands. On a new connection the clock is requested first.
2. Commands may be repeated, so a command whose connection ended without an answer is sent again over a new one.
3. An owner that refuses the connection is dead: its jobs went back to their queues with its Kestrel connections. While
   it is being killed, it may still accept connections and end each of them, so it is asked a few times.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import ssl
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.errors import LeaseForgotten, OutcomeUnknown, OwnerUnavailable, Unauthenticated
from gateway.forwarding.commands import (
    LeaseCommand,
    NotUnderstoodError,
    Result,
    Verb,
    command_of,
    result_content,
    result_of,
)
from gateway.forwarding.http_client import BadResponseError, ConnectionEndedError, HttpConnection
from gateway.forwarding.seal import Seal
from gateway.settings import Settings

log = logging.getLogger(__name__)

PATH: Final = "/cluster/orders"  # `order` is the wire name of a command, kept for older replicas
SEAL_HEADER: Final = "cluster-seal"
MAX_MESSAGE: Final = 65536
CONNECTIONS: Final = 16
"""Connections to one replica at a time; further commands wait for one of them."""
CONNECT_S: Final = 1.0
PAUSES_S: Final = (0.0, 0.05, 0.2, 0.5, 0.0)
"""After each attempt whose connection ended without an answer. In all less than the second in which a dead owner is to
be reported."""
IDLE_S: Final = 20.0
"""Below the smallest sensible keep-alive time of a server, so that connections mostly end at this side."""

_SENT_BEFORE: Final = "the replica that holds the lease closed the connection before it answered"


class _Ended(Exception):
    """The connection ended before the answer was complete. sent: whether the command had been sent by then."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__()
        self.sent = sent


_NOT_UNDERSTOOD: Final = frozenset({502, 503})
"""What version 0.1.0 and later ones answer to a command that they do not know, or are too busy to look at: they have
done nothing. From a proxy it may mean something else, but a settlement that was carried out gets its answer again."""


class Replicas:
    """The other replicas, by URL. tls: how https URLs are verified."""

    def __init__(self, seal: Seal, tls: ssl.SSLContext | None = None) -> None:
        self._seal = seal
        self._tls = tls
        self._known: dict[str, _Replica] = {}

    async def ask(self, url: str, command: LeaseCommand) -> Result:
        """The owner's result.

        Raises:
            LeaseForgotten: the owner is dead.
            OutcomeUnknown: it did not answer by the command's deadline, and will not begin the command after that; or
                it sent no usable answer, or closed each connection.
            OwnerUnavailable: it cannot be reached.
            NotUnderstoodError: an earlier version does not know SETTLE_MANY.
        """
        replica = self._known.get(url)
        if replica is None:
            self._known = {known: each for known, each in self._known.items() if not each.unused}
            replica = self._known[url] = _Replica(url, self._seal, self._tls)
        try:
            async with asyncio.timeout(command.deadline_s - time.monotonic()):
                return await replica.ask(command)
        except TimeoutError as exc:
            raise OutcomeUnknown("the replica that holds the lease did not answer in time") from exc

    def receive(self, seal: str, body: bytes) -> LeaseCommand | None:
        """The command that another replica sent; None if it asks only for the clock.

        Raises:
            Unauthenticated: it was not sealed with a secret of this cluster.
            OwnerUnavailable: the command is not understood.
        """
        self._seal.check_request(seal, "POST", PATH, body)
        try:
            content = orjson.loads(body)["order"]
            return None if content is None else command_of(content)
        except (ValueError, KeyError, TypeError) as exc:
            raise OwnerUnavailable("the command is not understood; run the same version on all replicas") from exc

    def answer(self, asked: str, result: Result | None) -> tuple[bytes, str]:
        """The body with the result for the request that was sealed with `asked`, and its seal."""
        content = None if result is None else result_content(result)
        body = orjson.dumps({"now_s": time.monotonic(), "result": content})
        return body, self._seal.answer(asked, body)

    def replace(self, secrets: Sequence[bytes]) -> None:
        """Uses these secrets of the cluster from now on."""
        self._seal.replace(secrets)

    def close(self) -> None:
        for replica in self._known.values():
            replica.close()
        self._known.clear()


@dataclass(eq=False, slots=True)
class _Connection:
    """ahead_s: the owner's clock was at least this far ahead of ours at its last answer."""

    http: HttpConnection
    ahead_s: float | None = None
    idle_timer: asyncio.TimerHandle | None = None


class _Replica:
    """One replica's address and the connections to it."""

    def __init__(self, url: str, seal: Seal, tls: ssl.SSLContext | None) -> None:
        parts = urllib.parse.urlsplit(url)
        self._url = url
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._seal = seal
        self._headers = ((b"host", parts.netloc.encode()), (b"content-type", b"application/json"))
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[_Connection] = []
        self._users = 0

    @property
    def unused(self) -> bool:
        return not self._users and not self._idle

    async def ask(self, command: LeaseCommand) -> Result:
        """Raises what Replicas.ask raises. Cancelled: the owner may execute it, until its deadline."""
        self._users += 1
        try:
            async with self._room:
                return await self._ask(command)
        finally:
            self._users -= 1

    async def _ask(self, command: LeaseCommand) -> Result:
        connection = self._take()
        sent = False  # the owner may already have executed the command, even if it cannot be reached now
        for pause_s in PAUSES_S:
            try:
                result = await self._exchange(connection or await self._connect(), command)
            except _Ended as exc:
                connection = None
                sent = sent or exc.sent
                await asyncio.sleep(pause_s)
            except OwnerUnavailable as exc:
                if not sent:
                    raise
                raise OutcomeUnknown(_SENT_BEFORE) from exc
            else:
                return OutcomeUnknown(_SENT_BEFORE) if sent and isinstance(result, OwnerUnavailable) else result
        raise OutcomeUnknown("the replica that holds the lease closed the connection without an answer")

    def close(self) -> None:
        for connection in self._idle:
            self._end(connection)
        self._idle.clear()

    async def _exchange(self, connection: _Connection, command: LeaseCommand) -> Result:
        try:
            if connection.ahead_s is None:
                await self._send(connection, None)
                if not connection.http.usable:  # a replica that drains closes each connection after one answer
                    ahead_s = connection.ahead_s
                    self._end(connection)
                    connection = await self._connect()
                    connection.ahead_s = ahead_s
            assert connection.ahead_s is not None
            result = await self._send(connection, command.passed_on(command.deadline_s + connection.ahead_s))
        except BaseException:
            self._end(connection)
            raise
        self._put(connection)
        if result is None:
            raise OutcomeUnknown("the replica that holds the lease sent an unexpected reply")
        return result

    async def _send(self, connection: _Connection, command: LeaseCommand | None) -> Result | None:
        """One request and its answer. Raises _Ended, OutcomeUnknown; then the connection cannot be used again."""
        body = orjson.dumps({"nonce": secrets.token_hex(16), "order": command})
        seal = self._seal.request("POST", PATH, body)
        try:
            answer = await connection.http.post(PATH, [*self._headers, (SEAL_HEADER.encode(), seal.encode())], body)
        except ConnectionEndedError as exc:
            raise _Ended(sent=command is not None) from exc
        except BadResponseError as exc:
            raise self._unfit(f"it does not answer as a replica ({exc})") from exc
        if answer.status in _NOT_UNDERSTOOD and command is not None and command.verb is Verb.SETTLE_MANY:
            raise NotUnderstoodError
        if answer.status != 200:
            raise self._unfit(f"it answered {answer.status}")
        try:
            self._seal.check_answer(answer.headers.get(SEAL_HEADER.encode(), b"").decode("latin-1"), seal, answer.body)
            content: Any = orjson.loads(answer.body)
            connection.ahead_s = float(content["now_s"]) - time.monotonic()
            result = None if content["result"] is None else result_of(content["result"])
        except Unauthenticated as exc:
            raise self._unfit(
                "its answer is not signed with the cluster's secret; give all replicas the same --cluster-secret"
            ) from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise self._unfit("its answer is not understood; run the same version on all replicas") from exc
        return result

    def _unfit(self, why: str) -> OutcomeUnknown:
        log.error("the replica at %s cannot be used: %s", self._url, why)
        return OutcomeUnknown("the replica that holds the lease sent an invalid answer")

    async def _connect(self) -> _Connection:
        """A connection to the first of its addresses that accepts one. Raises LeaseForgotten, OwnerUnavailable."""
        troubles: list[OSError] = []
        name = self._host if self._tls is not None else None
        try:
            async with asyncio.timeout(CONNECT_S):
                loop = asyncio.get_running_loop()
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                for address in dict.fromkeys(str(each[4][0]) for each in found):
                    try:
                        return _Connection(
                            await HttpConnection.open(
                                address, self._port, tls=self._tls, name=name, limit_bytes=MAX_MESSAGE
                            )
                        )
                    except OSError as exc:
                        troubles.append(exc)
        except (OSError, TimeoutError) as exc:
            troubles.append(exc if isinstance(exc, OSError) else OSError("no answer in time"))
        if all(isinstance(each, ConnectionRefusedError) for each in troubles):
            raise LeaseForgotten("the replica that held the lease is gone; an unsettled job is back on its queue")
        log.warning("the replica at %s cannot be reached: %s", self._url, troubles[-1])
        raise OwnerUnavailable("the replica that holds the lease cannot be reached; send the request again")

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_timer is not None:
                connection.idle_timer.cancel()
            if connection.http.usable:
                return connection
            self._end(connection)
        return None

    def _put(self, connection: _Connection) -> None:
        if connection.http.usable:
            self._idle.append(connection)
            connection.idle_timer = asyncio.get_running_loop().call_later(IDLE_S, self._idle_too_long, connection)
        else:
            self._end(connection)

    def _idle_too_long(self, connection: _Connection) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self._end(connection)

    @staticmethod
    def _end(connection: _Connection) -> None:
        if connection.idle_timer is not None:
            connection.idle_timer.cancel()
        connection.http.abort()


def replicas_of(settings: Settings, secrets: Sequence[bytes]) -> Replicas | None:
    """The other replicas, with which this one shares the secrets; None without secrets."""
    return Replicas(Seal(secrets), _trust(settings)) if secrets else None


def _trust(settings: Settings) -> ssl.SSLContext:
    """How this replica and the others authenticate each other over https: with the files that it serves with."""
    trust = ssl.create_default_context(cafile=settings.ssl_ca_certs)
    if settings.ssl_certfile is not None:
        trust.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_keyfile_password or None)
    return trust
