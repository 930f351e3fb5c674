"""Names of tenants, queues and children, and the Kestrel keys for them. Pure; only legal names pass this module.

1. A name is `[A-Za-z0-9_-]{1,64}`, begins and ends with a letter or digit, and does not contain `__`.
2. The reserved words are the suffixes of the keys of dead letters.
3. A key consists of names and of separators that no name can contain, so it can be parsed:

       {namespace}__{tenant}__{queue}            a queue; namespace and tenant if the deployment has them
       {queue's key}__dead                       its dead letters
       {queue's key}+{child}                     a fanout child
       {queue's key}__{child}__subdead           the child's dead letters (a `+` would make them a child, too)
       {namespace}___kestrel-gateway__{purpose}  an internal queue of the gateway, which no request can name

4. Internal queues belong to no tenant: a name never begins with `_`. Lists do not show them, and no quota counts them.

Kestrel reads `/`, `+`, `.`, `~`, spaces and line breaks in a key as options, fanout or commands; names contain none.
Source: kestrel-wire.md, "Names and errors".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from gateway.common.counted import counted
from gateway.errors import InvalidName

MAX_NAME = 64
MAX_KEY = 200
DEAD, CHILD_DEAD = "dead", "subdead"
RESERVED = frozenset({DEAD, CHILD_DEAD})
SEPARATOR = "__"
FANOUT = "+"
"""Between the key of a queue and the name of its fanout child."""
INTERNAL = "_kestrel-gateway"
"""The part of a key that marks an internal queue. It is not a legal name (rule 1)."""

PATTERN = "^[A-Za-z0-9]+(?:(?:_|_?(?:-_?)+)[A-Za-z0-9]+)*$"
"""Rule 1 except for the length. Without look-around, so that openapi.yaml can use the same pattern."""

_NAME = re.compile(PATTERN.strip("^$"))


@dataclass(frozen=True, slots=True)
class Name:
    """The parts of a key. tenant is empty if the deployment has no tenants; child is None for the queue itself."""

    tenant: str
    queue: str
    child: str | None = None
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Namespace:
    """How one deployment's names become keys. prefix: before every key, or empty. tenanted: keys contain a tenant."""

    prefix: str = ""
    tenanted: bool = False

    def key(self, name: Name) -> str:
        """The Kestrel key of `name`.

        Raises:
            InvalidName: a part is not a legal name, or the key is longer than MAX_KEY bytes.
        """
        return _key(self, name)

    def internal_key(self, purpose: str) -> str:
        """The key of an internal queue. purpose: what it holds, a legal name, such as `delay-07`.

        Raises InvalidName.
        """
        check_name(purpose, "internal queue")
        return self._internal + purpose

    def is_internal(self, key: str) -> bool:
        """Whether `key` is that of an internal queue of this deployment, whatever its purpose."""
        return key.startswith(self._internal)

    @property
    def _internal(self) -> str:
        return SEPARATOR.join([*([self.prefix] if self.prefix else []), INTERNAL, ""])

    def read(self, key: str) -> Name | None:
        """The name of `key`; None for keys that this deployment does not make, and for internal queues."""
        if self.is_internal(key):
            return None
        parts = key.split(SEPARATOR)
        if self.prefix and parts.pop(0) != self.prefix:
            return None
        tenant = parts.pop(0) if self.tenanted and parts else ""
        match parts:
            case [queue, "dead"]:
                name = Name(tenant, queue, dead=True)
            case [queue, child, "subdead"]:
                name = Name(tenant, queue, child, dead=True)
            case [queue]:
                queue, plus, child = queue.partition(FANOUT)
                name = Name(tenant, queue, child if plus else None)
            case _:
                return None
        try:
            return name if self.key(name) == key else None
        except InvalidName:
            return None

    def tenant_of(self, key: str) -> str | None:
        """The tenant to which `key` belongs, even if it names no queue; empty if there are no tenants.

        None: it belongs to no tenant of this deployment, or is that of an internal queue.
        """
        return _tenant_of(self, key)


def check_name(text: str, what: str) -> None:
    """Returns if `text` is a legal name. `what` is the kind of name, for the message.

    Raises:
        InvalidName: it is not; the detail says what a name may be.
    """
    if text in RESERVED:
        raise InvalidName(f"{text!r} is a reserved {what} name; choose another one")
    if len(text) <= MAX_NAME and _NAME.fullmatch(text):
        return
    shown = text if len(text) <= 80 else text[:77] + "..."
    raise InvalidName(
        f"{shown!r} is not a {what} name: use 1 to {MAX_NAME} characters of A-Z a-z 0-9 _ -, "
        "begin and end with a letter or digit, and do not use two underscores in a row"
    )


@lru_cache(maxsize=4096)
def _key(namespace: Namespace, name: Name) -> str:
    parts = [namespace.prefix] if namespace.prefix else []
    if namespace.tenanted:
        check_name(name.tenant, "tenant")
        parts.append(name.tenant)
    check_name(name.queue, "queue")
    parts.append(name.queue)
    if name.child is not None:
        check_name(name.child, "subscription")
        if name.dead:
            parts += [name.child, CHILD_DEAD]
        else:
            parts[-1] += FANOUT + name.child
    elif name.dead:
        parts.append(DEAD)
    key = SEPARATOR.join(parts)
    if len(key) > MAX_KEY:
        size = counted(len(key), "byte")
        raise InvalidName(
            f"the Kestrel key of the queue has {size}, which is above the maximum of {MAX_KEY}; use shorter names"
        )
    return key


@lru_cache(maxsize=4096)
def _tenant_of(namespace: Namespace, key: str) -> str | None:
    if namespace.is_internal(key):
        return None
    if namespace.prefix:
        prefix, _, key = key.partition(SEPARATOR)
        if prefix != namespace.prefix or not key:
            return None
    if not namespace.tenanted:
        return ""
    tenant, separator, _ = key.partition(SEPARATOR)
    try:
        check_name(tenant, "tenant")
    except InvalidName:
        return None
    return tenant if separator else None
