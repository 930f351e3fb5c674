"""Who calls, and what the caller may do. Pure values; does not say how a caller is authenticated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gateway.config.keys import Scope
from gateway.errors import ForbiddenQueue, ForbiddenScope, InvalidParameter
from gateway.names import glob


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of one key, or anyone if there are no keys. tenant is empty if the deployment has no tenants, or
    the caller belongs to none.

    queues: patterns of the names that it may use, see gateway.names.glob; empty allows every name.
    """

    name: str
    tenant: str
    scopes: frozenset[Scope]
    queues: tuple[str, ...] = ()

    @property
    def sees_deployment(self) -> bool:
        """Whether it may read the figures of every tenant, and the addresses of servers."""
        return not self.tenant and not _DEPLOYMENT.isdisjoint(self.scopes)

    def tenant_of(self, named: str | None, tenanted: bool) -> str:
        """The tenant whose figures it reads. named: by the request. tenanted: whether the deployment has tenants.

        Raises InvalidParameter, ForbiddenScope.
        """
        if named is None:
            if tenanted and not self.tenant:
                raise InvalidParameter("tenant: this key has no tenant of its own; add tenant=NAME to the query")
            return self.tenant
        if not tenanted:
            raise InvalidParameter("tenant: this deployment has no tenants; leave the parameter out")
        if named != self.tenant and not self.sees_deployment:
            raise ForbiddenScope(
                "this key may read only the figures of its own tenant; leave out the parameter tenant",
                Scope.OPERATOR.value,
            )
        return named

    def may_use(self, queue: str) -> bool:
        """Whether it may use the queue of that name, which need not exist."""
        return not self.queues or _matches(self.queues, queue)

    def check_queue(self, queue: str) -> None:
        """Raises ForbiddenQueue if the caller may not use the name."""
        if self.queues and not _matches(self.queues, queue):
            raise ForbiddenQueue(f"this key does not allow the queue {queue!r}; use a key that allows it")


_DEPLOYMENT = frozenset({Scope.OPERATOR, Scope.OBSERVE})

ANYONE = Caller(name="", tenant="", scopes=frozenset(Scope))
"""The caller if requests are not authenticated."""

STRANGER = Caller(name="", tenant="", scopes=frozenset())
"""The caller of an operation that needs no key, in a deployment with keys."""


@lru_cache(maxsize=4096)
def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(glob.covers(pattern, name) for pattern in patterns)
