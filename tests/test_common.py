"""What the broker and the rest of the gateway share: addresses, TCP options, the check of state machines."""

import enum
import socket

import pytest

from gateway.common import net
from gateway.common.states import IllegalMoveError, check_move


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
