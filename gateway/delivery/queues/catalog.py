"""The queue that a name refers to, with its key and policy. The only place that converts names to keys and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gateway.config.policies import DEFAULT, Policies, Policy
from gateway.names.namespace import Name, Namespace


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue by its tenant's name. tenant is empty if the deployment has no tenants."""

    tenant: str
    name: str
    key: str
    policy: Policy = DEFAULT


class Catalog:
    """The queues of a deployment. Policies may change at run time; a Queue keeps the policy it was made with."""

    def __init__(self, namespace: Namespace, policies: Policies | None = None) -> None:
        self._namespace = namespace
        self.apply(policies or Policies())

    def apply(self, policies: Policies) -> None:
        """Uses these policies from now on."""
        namespace = self._namespace
        own_keys = self._own_keys = policies.keys

        @lru_cache(maxsize=4096)
        def queue(tenant: str, name: str) -> Queue:
            made = Name(tenant, name)
            key = namespace.key(made)  # checks the name, also if the policy sets another key
            return Queue(tenant, name, own_keys.get(made, key), policies.of(tenant, name))

        self._queue = queue
        self._owners = {key: name for name, key in own_keys.items()}

    def queue(self, tenant: str, name: str) -> Queue:
        """The tenant's queue with the name. Raises InvalidName."""
        return self._queue(tenant, name)

    def owner_of(self, key: str) -> Name | None:
        """The tenant's name of the queue with the key; None if it is not a tenant's queue."""
        name = self._owners.get(key) or self._namespace.read(key)
        if name is None or name.child is not None or name.dead:
            return None
        return name if self._own_keys.get(name, key) == key else None

    def name_of(self, tenant: str, key: str) -> str | None:
        """The tenant's name for the queue with the key; None if the queue is not the tenant's."""
        name = self.owner_of(key)
        return name.queue if name is not None and name.tenant == tenant else None

    def is_unreachable(self, key: str) -> bool:
        """Whether no request can name the queue, although its key is in this deployment's namespace."""
        return self.unreachable_for(key) is not None

    def unreachable_for(self, key: str) -> str | None:
        """The tenant of an unreachable queue, empty if there are no tenants; None for every other queue.

        Children and dead letters of a queue that can be named are not unreachable. Neither is a key of another
        namespace or of no tenant.
        """
        if key in self._owners:
            return None
        name = self._namespace.read(key)
        if name is None:
            return self._namespace.tenant_of(key)
        moved = name.child is None and not name.dead and self._own_keys.get(name, key) != key
        return name.tenant if moved else None
