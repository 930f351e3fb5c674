"""What the broker and the rest of the gateway share: addresses, TCP options, the check of state machines."""

import enum
import socket

import pytest

from gateway.common import net
from gateway.common.key_forms import KeyForm, key_form
from gateway.common.states import IllegalMoveError, check_move
from gateway.delivery.dead_letters.store import own_key
from gateway.delivery.delay import levels
from gateway.delivery.queues.catalog import Catalog
from gateway.names.namespace import Namespace


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("localhost:80", ("localhost", 80)),
        ("[::1]:0", ("::1", 0)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("::1:80", None),
        ("a:65536", None),
        ("a:-1", None),
        ("a:\u0661", None),
        (":80", None),
        ("a b:80", None),
        ("a..b:80", None),
        ("a" * 64 + ".b:80", None),
        ("a", None),
    ],
)
def test_addresses_are_read_and_written(text, found):
    """Each has one form; what has another is none."""
    assert net.host_and_port(text) == found
    if found is not None:
        assert net.joined(*found) == text
    assert net.host_and_port("a:0", lowest_port=1) is None


def test_options_are_set():
    """On a real socket; the kernel shows them."""
    with socket.socket() as sock:
        net.set_options(sock, (*net.keepalive(40, 7, 2), *net.user_timeout(1.5)))
        shown = [
            sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        ]
        assert shown == [1, 40, 7, 2, 1500]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_illegal_moves_are_defects():
    """The table decides; a state that it does not have is final."""

    class Light(enum.Enum):
        RED = 1
        GREEN = 2
        OFF = 3

    moves = {Light.RED: {Light.GREEN}, Light.GREEN: {Light.RED, Light.OFF}}
    check_move("a light", moves, Light.RED, Light.GREEN)
    for now, to in ((Light.RED, Light.OFF), (Light.OFF, Light.RED), (Light.RED, Light.RED)):
        with pytest.raises(IllegalMoveError, match=f"a light cannot go from {now.name.lower()} to {to.name.lower()}"):
            check_move("a light", moves, now, to)


@pytest.mark.parametrize("namespace", [Namespace(), Namespace("shop"), Namespace("shop", tenanted=True)])
def test_the_form_of_a_key_says_what_it_is_for(namespace):
    """As the names make it, whatever the deployment."""
    catalog = Catalog(namespace)
    for name in ("q", "dead-q", "delay-1", "q+child"):
        queue = catalog.queue("acme" if namespace.tenanted else "", name)
        assert key_form(queue.key.encode()) is KeyForm.JOBS
        assert key_form(own_key(queue).encode()) is KeyForm.DEAD_LETTERS
    for purpose in (levels.purpose(3), levels.own_purpose(500), "delay-unreadable"):
        assert key_form(namespace.internal_key(purpose).encode()) is KeyForm.DELAYED_JOBS
    assert key_form(namespace.internal_key("control").encode()) is KeyForm.INTERNAL
    assert key_form(b"\xff\n") is KeyForm.JOBS
