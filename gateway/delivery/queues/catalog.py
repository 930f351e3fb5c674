"""Which queue a name means: for a tenant, its key and policy. The one place where names become keys and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gateway.config.policies import DEFAULT, Policies, Policy
from gateway.names.namespace import Name, Namespace


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as its tenant names it. tenant is empty where the deployment has none."""

    tenant: str
    name: str
    key: str
    policy: Policy = DEFAULT


class Catalog:
    """The queues of a deployment. Policies may change while it runs; a Queue keeps those it was made with."""

    def __init__(self, namespace: Namespace, policies: Policies | None = None) -> None:
        self._namespace = namespace
        self.apply(policies or Policies())

    def apply(self, policies: Policies) -> None:
        """From now on the queues have these policies."""
        namespace = self._namespace
        own_keys = self._own_keys = policies.keys

        @lru_cache(maxsize=4096)
        def queue(tenant: str, name: str) -> Queue:
            made = Name(tenant, name)
            key = namespace.key(made)  # also where the key is another: it checks the name
            return Queue(tenant, name, own_keys.get(made, key), policies.of(tenant, name))

        self._queue = queue
        self._owners = {key: name for name, key in own_keys.items()}

    def queue(self, tenant: str, name: str) -> Queue:
        """The tenant's queue of that name. Raises InvalidName."""
        return self._queue(tenant, name)

    def owner_of(self, key: str) -> Name | None:
        """The tenant's name of the queue with that key; None when it is no tenant's queue."""
        name = self._owners.get(key) or self._namespace.read(key)
        if name is None or name.child is not None or name.dead:
            return None
        return name if self._own_keys.get(name, key) == key else None

    def name_of(self, tenant: str, key: str) -> str | None:
        """The name under which the tenant knows the queue with that key; None when it is no queue of the tenant."""
        name = self.owner_of(key)
        return name.queue if name is not None and name.tenant == tenant else None

    def is_unreachable(self, key: str) -> bool:
        """Whether no request can name the queue with that key, though it lies where this deployment has its queues."""
        return self.unreachable_for(key) is not None

    def unreachable_for(self, key: str) -> str | None:
        """The tenant whose such a queue is, empty where there are no tenants; None for every other queue.

        Children and dead letters of a queue that can be named are no such queues. Nor is a key that belongs to another
        namespace, or to no tenant.
        """
        if key in self._owners:
            return None
        name = self._namespace.read(key)
        if name is None:
            return self._namespace.tenant_of(key)
        moved = name.child is None and not name.dead and self._own_keys.get(name, key) != key
        return name.tenant if moved else None
