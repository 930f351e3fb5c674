"""What servers publish of themselves, byte by byte."""

import json
import struct

import pytest

from gateway.kestrel.address import Address
from gateway.kestrel.discovery.members import HostName, parse_sources
from gateway.kestrel.discovery.serverset import Published, ServerSet, decode, published
from gateway.settings import SettingsError

A, B, C = Address("a", 1), Address("b", 2), Address("c", 3)


def text(value):
    return struct.pack(">i", len(value)) + value.encode()


def endpoint(host, port):
    """Endpoint of endpoint.thrift, with its optional `inet`."""
    return b"\x0b\0\1" + text(host) + b"\x08\0\2" + struct.pack(">i", port) + b"\x0b\0\3" + text("10.0.0.1") + b"\0"


def instance(host="k1", port=22133, more=(), status=2):
    """ServiceInstance of endpoint.thrift, with a shard."""
    entries = b"".join(text(name) + endpoint(*each) for name, each in more)
    return (
        b"\x0c\0\1" + endpoint(host, port) + b"\x0d\0\2" + b"\x0b\x0c" + struct.pack(">i", len(more)) + entries
        + b"\x08\0\3" + struct.pack(">i", status) + b"\x08\0\4" + struct.pack(">i", 7) + b"\0"
    )  # fmt: skip


def as_json(**more):
    value = {"serviceEndpoint": {"host": "k1", "port": 22133}, "additionalEndpoints": {}, "status": "ALIVE", "shard": 0}
    return json.dumps(value | more).encode()


def test_json_and_thrift_say_the_same():
    """A member's port for memcache, whichever way it is written."""
    for data in (as_json(), instance(), b'{"serviceEndpoint":{"host":"k1","port":22133}}'):
        assert decode(data) == Address("k1", 22133)
    thrift, memcache = ("thrift", ("k1", 2229)), ("memcache", ("k1", 22133))
    assert decode(instance(port=2229, more=[thrift, memcache])) == Address("k1", 22133)
    more = {"memcache": {"host": "k1", "port": 22133}, "http-admin": {"host": "k1", "port": 2223}}
    assert decode(as_json(serviceEndpoint={"host": "k1", "port": 1}, additionalEndpoints=more)) == Address("k1", 22133)


@pytest.mark.parametrize("status", ["DEAD", "STARTING", "STOPPING", "STOPPED", "WARNING"])
def test_only_who_is_alive_is_a_member(status):
    """Everything else is as if it were not there."""
    number = ["DEAD", "STARTING", "ALIVE", "STOPPING", "STOPPED", "WARNING"].index(status)
    assert decode(as_json(status=status)) is None
    assert decode(instance(status=number)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", b"x", b"{", b"{}", b"null", b"[]", b'{"serviceEndpoint": 1}', b"[" * 100_000, b"{" * 100_000,
        as_json(serviceEndpoint={"host": "", "port": 1}), as_json(serviceEndpoint={"host": "k", "port": 0}),
        as_json(serviceEndpoint={"host": "k", "port": True}), as_json(serviceEndpoint={"host": "k", "port": 65536}),
        as_json(serviceEndpoint={"host": "k\r\n", "port": 1}), as_json(serviceEndpoint={"host": 1, "port": 1}),
        as_json(additionalEndpoints={"thrift": {"host": "k1", "port": 22133}}), as_json(additionalEndpoints=[1]),
        instance(host="\xff"), instance(host=" "), instance(port=-1), b"\x0c\0\1" * 1000,
        b"\x0f\0\5\x02\x7f\xff\xff\xff",
        b"\x0d\0\2\x0b\x0c\x7f\xff\xff\xff", b"\x0b\0\1\xff\xff\xff\xff\0", b"\x07\0\1\0",
    ],
)  # fmt: skip
def test_what_is_no_member_is_refused(data):
    """Never another error than ValueError, and never a wrong address."""
    with pytest.raises(ValueError, match=r"it|invalid|JSON|expected|codec"):
        decode(data)


def test_a_member_that_is_cut_short_is_refused():
    """At every byte."""
    whole = instance(more=[("memcache", ("k1", 22133))])
    for end in range(len(whole)):
        with pytest.raises(ValueError, match="it"):
            decode(whole[:end])


def test_a_member_of_one_set_only_reads():
    """In both sets: a member. For reading only: it gets no writes. In none: no member."""
    assert published([A, B, B], [A, C]) == Published((A, B, C), frozenset([B]))
    assert published([B, A], []) == Published((A, B), frozenset([A, B]))
    assert published([], []) == Published()


def test_hosts_are_separated_by_commas():
    """Hosts of one ZooKeeper are separated by commas, as servers are: they end with the path."""
    one = ServerSet(("z1:2181",), "/kestrel/jobs")
    two = ServerSet(("z1:2181", "[::1]:2182"), "/kestrel")
    assert parse_sources(["zk:z1:2181/kestrel/jobs/"]) == (one,)
    assert parse_sources(["a:1,zk:z1:2181,[::1]:2182/kestrel,dns:b:2"]) == (A, two, HostName("b", 2))
    assert parse_sources(["zk:z1:2181", "[::1]:2182/kestrel"]) == (two,)  # as a variable's commas are read
    assert parse_sources(["zk:z1:2181/"]) == (ServerSet(("z1:2181",), ""),)
    assert str(two) == "zk:z1:2181,[::1]:2182/kestrel"


@pytest.mark.parametrize(
    "bad", ["zk:", "zk:/", "zk:z", "zk:z:2181", "zk:z/a", "zk:z:1,/a", "zk:z:1//a", "zk:z:1/a/../b", "zk:z:1/a b",
            "zk:z:1,b:2", "zk:unix:/a", "zk:z:1,zk:y:2/a"],
)  # fmt: skip
def test_bad_spellings_are_told(bad):
    """One line that names what is wrong."""
    with pytest.raises(SettingsError, match="kestrel"):
        parse_sources([bad])
