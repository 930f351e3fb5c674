"""Watches a server set in ZooKeeper, in its own threads, and passes its findings to the event loop.

Owns one ZooKeeper session. Knows no Kestrel server. Only this module imports kazoo, and only when a set is watched.

1. Both sets are read again each time ZooKeeper reports a change, after every connection, whatever happened to the
   session and its watches, and when `look` is called. `published` is the last reading that found a server.
2. While ZooKeeper cannot be reached, and when it lists no server, the last known servers stay, because neither means
   that they are gone. Each case is one line in the log.
3. The event loop waits for none of this, and no failure of it ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from gateway.kestrel.address import Address
from gateway.kestrel.discovery.serverset import MEMBER, Published, ServerSet, decode, published

log = logging.getLogger(__name__)
_kazoo_log = logging.getLogger(f"{__name__}.client")

SESSION_S = 10.0
"""The session's time-out that is asked for. Source: ZooKeeper allows 2 to 20 ticks of, by default, 2 s."""
ANSWER_S = 5.0
"""For one answer of a server that is connected: half a session."""
PATIENCE_S, RETRY_S, RENEW_S = 2.0, 1.0, 60.0
"""How long a new client is given to connect before the first reading; the pause between readings while there is no
connection; how long a client without a connection is kept before a new one takes its place."""
CLOSE_S = 1.0
"""How long the shutdown waits for kazoo's threads."""
# kazoo's pauses between its attempts to connect.
_RECONNECT = {"max_tries": -1, "delay": 0.1, "backoff": 2, "max_delay": 5.0}


class Watch:
    """`published` is the content of the set. `on_change` is called on the loop each time it has changed.

    `trouble` says why the last reading found no server; empty if it found one, and before the first reading.
    """

    def __init__(self, server_set: ServerSet, on_change: Callable[[], None]) -> None:
        """Starts in the background."""
        self.published = Published()
        self._set = server_set
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        # shared with kazoo's threads
        self._news = threading.Event()
        self._closing = False
        self.trouble = ""  # written by the thread only, as is what follows
        self._known = Published()
        self._refused: set[str] = set()
        threading.Thread(target=self._run, name=f"watch of {server_set}", daemon=True).start()

    def look(self) -> None:
        """Reads the sets again soon."""
        self._news.set()

    async def close(self) -> None:
        """Ends the session. Returns when it is over; does not wait for a ZooKeeper that does not answer."""
        self._closing = True
        self._news.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._ended.wait()

    # On the loop

    def _take(self, found: Published) -> None:
        if not self._closing:
            self.published = found
            self._on_change()

    # In the thread

    def _run(self) -> None:
        while not self._closing:
            try:
                self._watch()
            except Exception:
                log.exception("ZooKeeper at %s: the watch failed and starts again", self._set)
                self._news.wait(RETRY_S)
        self._call_soon(self._ended.set)

    def _call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so the callback is not needed
            self._loop.call_soon_threadsafe(callback, *args)

    def _watch(self) -> None:
        """Returns when the watch is closed, or when the client could not connect for so long that a new one is made."""
        from kazoo.client import KazooClient  # noqa: PLC0415 (an optional dependency)

        _kazoo_log.setLevel(logging.ERROR)  # this module logs the important events itself, once
        client = KazooClient(
            hosts=",".join(self._set.hosts), timeout=SESSION_S, connection_retry=dict(_RECONNECT), logger=_kazoo_log
        )
        client.add_listener(self._on_news)
        client.start_async()
        lost_at: float | None = time.monotonic()
        try:
            self._wait_for(client)
            while lost_at is None or time.monotonic() - lost_at < RENEW_S:
                self._news.clear()
                if self._closing:
                    break
                if self._look(client):
                    lost_at = None
                elif lost_at is None:
                    lost_at = time.monotonic()
                self._news.wait(None if lost_at is None else RETRY_S)
        finally:
            client.remove_listener(self._on_news)
            client.stop()
            client.close()

    def _wait_for(self, client: Any) -> None:
        """Returns when the client is connected, or when the time for that is over."""
        ends_at = time.monotonic() + PATIENCE_S
        while not client.connected and not self._closing and (left_s := ends_at - time.monotonic()) > 0:
            self._news.wait(left_s)
            self._news.clear()

    def _on_news(self, _news: Any) -> None:
        """Called by kazoo: its state, or a watched node, has changed. Does not block."""
        self._news.set()

    def _look(self, client: Any) -> bool:
        """Reads both sets and reports changes. Returns whether ZooKeeper answered."""
        from kazoo.exceptions import KazooException  # noqa: PLC0415 (see _watch)
        from kazoo.handlers.threading import KazooTimeoutError  # noqa: PLC0415

        try:
            if not client.connected:
                self._say("cannot be reached")
                return False
            found = published(self._members(client, "read"), self._members(client, "write"))
        except (KazooException, KazooTimeoutError) as error:
            self._say(f"cannot be queried: {type(error).__name__} {error}".rstrip())
            return False
        if not found.addresses:
            self._say("lists no server")
            return True
        if found != self._known or self.trouble:
            log.info("Kestrel: %s lists %s", self._set, found)
            self._known, self.trouble = found, ""
            self._call_soon(self._take, found)
        return True

    def _members(self, client: Any, leaf: str) -> list[Address]:
        """The servers below `leaf`, all of which are watched from now on. Raises KazooException, KazooTimeoutError."""
        from kazoo.exceptions import NoNodeError  # noqa: PLC0415 (see _watch)

        path = f"{self._set.path}/{leaf}"
        try:
            names = client.get_children_async(path, watch=self._on_news).get(timeout=ANSWER_S)
        except NoNodeError:
            if client.exists_async(path, watch=self._on_news).get(timeout=ANSWER_S) is not None:
                self._news.set()  # it was created in between
            return []
        nodes = [f"{path}/{name}" for name in sorted(names) if name.startswith(MEMBER)]
        asked = [client.get_async(node, watch=self._on_news) for node in nodes]
        found: list[Address] = []
        for node, answer in zip(nodes, asked, strict=True):
            try:
                address = decode(answer.get(timeout=ANSWER_S)[0])
            except NoNodeError:
                continue
            except ValueError as error:
                if node not in self._refused:
                    log.warning("Kestrel: %s: %s is ignored: %s", self._set, node, error)
                self._refused.add(node)
                continue
            if address is not None:
                found.append(address)
        self._refused -= {node for node in self._refused if node.startswith(f"{path}/") and node not in nodes}
        return found

    def _say(self, trouble: str) -> None:
        """Logs a problem once."""
        if trouble != self.trouble:
            kept = f"; using the last known servers: {self._known}" if self._known.addresses else ""
            log.warning("Kestrel: %s %s%s", self._set, trouble, kept)
            self.trouble = trouble
