"""Which queue a name means: for a tenant, its Kestrel key. The one place where names become keys and back."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.contract.names import Name, Namespace


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as its tenant names it. tenant is empty where the deployment has none."""

    tenant: str
    name: str
    key: str


class Catalog:
    """The queues of a deployment."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def queue(self, tenant: str, name: str) -> Queue:
        """The tenant's queue of that name. Raises InvalidName."""
        return Queue(tenant, name, self._namespace.key(Name(tenant, name)))

    def name_of(self, tenant: str, key: str) -> str | None:
        """The name under which the tenant knows the queue with that key; None when it is no queue of his."""
        name = self._namespace.read(key)
        if name is None or name.tenant != tenant or name.child is not None or name.dead:
            return None
        return name.queue
