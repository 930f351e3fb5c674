"""Who asks, and what he may do. Pure values; how a caller is known is not said here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Scope(Enum):
    """produce: enqueue. consume: take and settle. admin: a tenant's own queues. operator: the deployment, no tenant."""

    PRODUCE = "produce"
    CONSUME = "consume"
    ADMIN = "admin"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """One key's bearer, or anyone where there are no keys. tenant is empty where the deployment has none."""

    name: str
    tenant: str
    scopes: frozenset[Scope]


ANYONE = Caller(name="", tenant="", scopes=frozenset(Scope))
"""The caller where requests are not authenticated."""
