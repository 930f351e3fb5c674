"""Log lines about clients. Clients can cause them at will, so each kind is limited."""

from __future__ import annotations

import logging

from gateway.common.limited_log import LimitedLog

log = logging.getLogger(__name__)


class ClientLog:
    """What clients do that an operator should know, one line each. `peer`: the client's address."""

    def __init__(self) -> None:
        self._limited = LimitedLog()

    def foreign(self, protocol: str, peer: str) -> None:
        """A client of another protocol was disconnected."""
        if (more := self._limited.count(protocol)) is not None:
            log.warning(
                "%s disconnected: sent %s; only the text protocol of memcache is supported%s", peer, protocol, more
            )

    def dropped(self, peer: str, limit_bytes: int) -> None:
        """A client was disconnected because of the bytes that were buffered for it."""
        if (more := self._limited.count("memory")) is not None:
            log.warning(
                "%s is disconnected: incomplete items and unread answers reach %d bytes%s", peer, limit_bytes, more
            )

    def connection_limit(self, what: str, limit: int) -> None:
        """There are too many connections; `what` happened to one."""
        if (more := self._limited.count("connections")) is not None:
            log.warning("connection limit (%d) reached: %s%s", limit, what, more)
