"""The queue that a name refers to, with its key and policy. The only place that converts names to keys and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from gateway.config.policies import DEFAULT, Policies, Policy
from gateway.errors import InvalidName
from gateway.names.namespace import FANOUT, Name, Namespace, check_name


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, or a fanout child (`{queue}+{child}`), by its tenant's name. tenant is empty if the deployment has no
    tenants."""

    tenant: str
    name: str
    key: str
    policy: Policy = DEFAULT

    @property
    def is_child(self) -> bool:
        """Whether it is a fanout child: its jobs are copies of those of its parent."""
        return FANOUT in self.name

    @property
    def parent(self) -> str:
        """The name of the queue of which it is a child, or its own name."""
        return self.name.partition(FANOUT)[0]

    @property
    def child(self) -> str:
        """The child's own name; empty for a queue."""
        return self.name.partition(FANOUT)[2]


class Catalog:
    """The queues of a deployment. Policies may change at run time; a Queue keeps the policy it was made with.

    queue: the tenant's queue or child with the name. A child's format is its parent's. Raises InvalidName. It is looked
    up several times a request, so it is the cache itself.
    """

    queue: Callable[[str, str], Queue]

    def __init__(self, namespace: Namespace, policies: Policies | None = None) -> None:
        self._namespace = namespace
        self.apply(policies or Policies())

    @property
    def tenanted(self) -> bool:
        """Whether the deployment has tenants."""
        return self._namespace.tenanted

    def apply(self, policies: Policies) -> None:
        """Uses these policies from now on."""
        namespace = self._namespace
        own_keys = self._own_keys = policies.keys

        @lru_cache(maxsize=4096)
        def queue(tenant: str, name: str) -> Queue:
            of, plus, child = name.partition(FANOUT)
            made = Name(tenant, of)
            key = namespace.key(made)  # checks the name, also if the policy sets another key
            key = own_keys.get(made, key)
            if not plus:
                return Queue(tenant, name, key, policies.of(tenant, name))
            namespace.key(Name(tenant, of, child))
            policy = replace(policies.of(tenant, name), format=policies.of(tenant, of).format)
            return Queue(tenant, name, key + FANOUT + child, policy)

        self.queue = queue
        self._policies = policies
        self._owners = {key: name for name, key in own_keys.items()}

    def table_of(self, queue: Queue) -> str | None:
        """The title of the table of policies that applies to the queue now; None: the defaults apply."""
        table = self._policies.table(queue.tenant, queue.name)
        return None if table is None else table.title

    def owner_of(self, key: str) -> Name | None:
        """The tenant's name of the queue or child with the key; None if it is not a tenant's queue."""
        key, plus, child = key.partition(FANOUT)
        name = self._owners.get(key) or self._namespace.read(key)
        if name is None or name.dead or self._own_keys.get(name, key) != key:
            return None
        return replace(name, child=child) if plus and _is_name(child) else None if plus else name

    def name_of(self, tenant: str, key: str) -> str | None:
        """The tenant's name for the queue or child with the key; None if it is not the tenant's."""
        name = self.owner_of(key)
        if name is None or name.tenant != tenant:
            return None
        return name.queue if name.child is None else name.queue + FANOUT + name.child

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


def _is_name(child: str) -> bool:
    try:
        check_name(child, "subscription")
    except InvalidName:
        return False
    return True
