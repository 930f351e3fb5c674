"""Who asks, and what he may do. Pure values; how a caller is known is not said here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gateway.config.keys import Scope
from gateway.errors import ForbiddenQueue
from gateway.names import glob


@dataclass(frozen=True, slots=True)
class Caller:
    """One key's bearer, or anyone where there are no keys. tenant is empty where the deployment has none.

    queues: patterns of the names he may use, empty for every name.
    """

    name: str
    tenant: str
    scopes: frozenset[Scope]
    queues: tuple[str, ...] = ()

    @property
    def is_operator(self) -> bool:
        """Whether he may know where the servers are."""
        return Scope.OPERATOR in self.scopes

    def may_use(self, queue: str) -> bool:
        """Whether the queue of that name is for him; it need not exist."""
        return not self.queues or _matches(self.queues, queue)

    def check_queue(self, queue: str) -> None:
        """Raises ForbiddenQueue where the name is not for him."""
        if self.queues and not _matches(self.queues, queue):
            raise ForbiddenQueue(f"this key is not for a queue of the name {queue!r}")


ANYONE = Caller(name="", tenant="", scopes=frozenset(Scope))
"""The caller where requests are not authenticated."""

STRANGER = Caller(name="", tenant="", scopes=frozenset())
"""The caller of what needs no key, where other operations do."""


@lru_cache(maxsize=4096)
def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(glob.matches(pattern, name) for pattern in patterns)
