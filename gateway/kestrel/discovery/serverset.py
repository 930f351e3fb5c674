"""The registration of Kestrel servers in ZooKeeper. Pure: bytes in, addresses out.

    <prefix>/read/member_0000000001     servers that deliver items
    <prefix>/write/member_0000000001    servers that accept items

A node holds a ServiceInstance of Twitter's ServerSet, in JSON or, from older Kestrels, in Thrift's binary protocol.
Source: twitter-archive/kestrel, docs/guide.md, "ZooKeeper Server Sets", and ZooKeeperServerStatus.scala;
twitter-archive/commons, endpoint.thrift and ServerSetImpl.java (its default was Thrift until 2012).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import orjson

from gateway.common.net import host_and_port
from gateway.kestrel.address import Address
from gateway.settings import SettingsError

ZK = "zk:"
MEMBER = "member_"
_ALIVE = ("ALIVE", 2)
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class ServerSet:
    """A place where servers register. hosts: of ZooKeeper, each `host:port`. path: the prefix; empty for the root."""

    hosts: tuple[str, ...]
    path: str

    def __str__(self) -> str:
        return f"{ZK}{','.join(self.hosts)}{self.path or '/'}"


@dataclass(frozen=True, slots=True)
class Published:
    """The servers of a set. read_only: those that accept no items."""

    addresses: tuple[Address, ...] = ()
    read_only: frozenset[Address] = frozenset()

    def __str__(self) -> str:
        return ", ".join(f"{each} (reading only)" if each in self.read_only else str(each) for each in self.addresses)


def parse_server_set(text: str) -> ServerSet:
    """Reads `zk:HOST:PORT[,HOST:PORT...]/PREFIX`. Raises SettingsError, also if kazoo is not installed."""
    hosts, slash, prefix = text.removeprefix(ZK).partition("/")
    found = [host_and_port(host, lowest_port=1) for host in hosts.split(",")]
    addresses = [Address(*each) for each in found if each is not None]
    names = prefix.removesuffix("/").split("/") if prefix.removesuffix("/") else []
    bad = any(name in ("", ".", "..") or not name.isprintable() or " " in name for name in names)
    if not slash or bad or None in found:
        raise SettingsError(f"kestrel: {text!r} is not zk:HOST:PORT[,HOST:PORT]/PREFIX")
    if find_spec("kazoo") is None:
        raise SettingsError(f"kestrel: {text!r} needs kazoo: pip install 'kestrel-gateway[zookeeper]'")
    return ServerSet(tuple(map(str, addresses)), "".join(f"/{name}" for name in names))


def published(read: Iterable[Address], write: Iterable[Address]) -> Published:
    """The servers in one of the sets or in both, in an order that does not depend on ZooKeeper's."""
    readers, writers = frozenset(read), frozenset(write)
    return Published(tuple(sorted(readers | writers, key=str)), readers - writers)


def decode(data: bytes) -> Address | None:
    """The address at which a member serves memcache clients; None if it says that it is not alive. Raises
    ValueError."""
    instance = _from_json(data) if data.lstrip()[:1] == b"{" else _from_thrift(data)
    service, additional, status = instance
    if status not in _ALIVE:
        return None
    endpoint = additional.get("memcache", service)
    if "memcache" not in additional and service in (additional.get("thrift"), additional.get("text")):
        raise ValueError("it has no port for memcache clients")
    host, port = endpoint
    if not isinstance(host, str) or not host or not host.isprintable() or " " in host:
        raise ValueError("invalid host")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError("invalid port")
    return Address(host, port)


_Instance = tuple[tuple[Any, Any], dict[str, tuple[Any, Any]], Any]


def _from_json(data: bytes) -> _Instance:
    try:
        value = orjson.loads(data)
        more = value.get("additionalEndpoints") or {}
        service = value["serviceEndpoint"]
        return (
            (service["host"], service["port"]),
            {name: (each["host"], each["port"]) for name, each in more.items()},
            value.get("status", "ALIVE"),
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError("it is not a ServiceInstance") from exc


def _from_thrift(data: bytes) -> _Instance:
    try:
        fields, _ = _struct(data, 0, 0)
        more = fields.get(2) or {}
        return (
            (_text(fields[1][1]), fields[1][2]),
            {_text(name): (_text(each[1]), each[2]) for name, each in more.items()},
            fields.get(3, 2),
        )
    except (KeyError, TypeError, AttributeError, IndexError, struct.error) as exc:
        raise ValueError("it is not a ServiceInstance") from exc


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


# Thrift's binary protocol: a field is type, id and value; a struct ends with type 0. Fields that are not needed are
# skipped. Source: Thrift, doc/specs, thrift-binary-protocol.md.
_NUMBERS = {2: ">?", 3: ">b", 4: ">d", 6: ">h", 8: ">i", 10: ">q"}
_STRING, _STRUCT, _MAP, _SET, _LIST = 11, 12, 13, 14, 15


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    while data[at] != 0:
        kind, number = struct.unpack_from(">bh", data, at)
        fields[number], at = _value(data, at + 3, kind, depth + 1)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if kind in _NUMBERS:
        return struct.unpack_from(_NUMBERS[kind], data, at)[0], at + struct.calcsize(_NUMBERS[kind])
    if kind == _STRING:
        end = at + 4 + _count(data, at)
        return data[at + 4 : end], end
    if kind == _STRUCT:
        return _struct(data, at, depth)
    if kind == _MAP:
        keys, values = data[at], data[at + 1]
        count, at = _count(data, at + 2), at + 6
        found: dict[Any, Any] = {}
        for _ in range(count):
            key, at = _value(data, at, keys, depth + 1)
            found[key], at = _value(data, at, values, depth + 1)
        return found, at
    if kind in (_SET, _LIST):
        each, count, at = data[at], _count(data, at + 1), at + 5
        for _ in range(count):
            _, at = _value(data, at, each, depth + 1)
        return None, at
    raise ValueError("it has a field of an unknown type")


def _count(data: bytes, at: int) -> int:
    """A length. It cannot be greater than the number of bytes after it: each element takes at least one byte."""
    count: int = struct.unpack_from(">i", data, at)[0]
    if not 0 <= count <= len(data) - at - 4:
        raise ValueError("it is truncated")
    return count
