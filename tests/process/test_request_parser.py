"""The parser of requests without a socket: whole, byte by byte, and with the next request behind it."""

import pytest

from gateway.errors import BadFraming, HeadersTooLarge
from gateway.http.request_parser import MAX_HEADERS, RequestParser

LIMIT_BYTES = 2000
GET = b"GET /a?b HTTP/1.1\r\nHost: h\r\nX-Y:  z \r\n\r\n"
POST = b"POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
CHUNKED = (
    b"\r\nPUT /d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b"2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: t\r\n\r\n"
)
UPGRADE = b"POST /e HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi"


class Recorder:
    """Notes what the parser finds: heads, whole bodies, ends."""

    def __init__(self):
        self.heads, self.bodies, self.ends = [], [], 0

    def on_request(self, head):
        self.heads.append(head)
        self.bodies.append(b"")

    def on_request_body(self, body):
        self.bodies[-1] += body

    def on_request_end(self):
        self.ends += 1


def read(data, piece):
    """Feeds the data in pieces of that size, each until it is used up."""
    found = Recorder()
    parser = RequestParser(found, LIMIT_BYTES)
    for start in range(0, len(data), piece):
        left = data[start : start + piece]
        while left:
            taken = parser.feed(left)
            assert 0 < taken <= len(left)
            left = left[taken:]
    parser.close()
    return found, parser


@pytest.mark.parametrize("piece", [1, 3, 100_000])
@pytest.mark.parametrize(
    ("data", "method", "target", "body", "keep_alive", "continues"),
    [
        (GET, "GET", b"/a?b", b"", True, False),
        (POST, "POST", b"/c", b"hello", True, True),
        (CHUNKED, "PUT", b"/d", b"hello", False, False),
        (UPGRADE, "POST", b"/e", b"hi", True, False),
    ],
    ids=["get", "post", "chunked", "upgrade"],
)
def test_a_request_is_found_however_it_is_cut(data, method, target, body, keep_alive, continues, piece):  # noqa: PLR0917
    """Its head, its body and its end, once; trailers and extensions are no part of them."""
    found, parser = read(data, piece)
    (head,) = found.heads
    assert (head.method, head.target, head.version) == (method, target, "1.1")
    assert (head.keep_alive, head.continues, found.bodies, found.ends) == (keep_alive, continues, [body], 1)
    assert head.size == data.index(b"\r\n\r\n") + 4
    assert {name for name, _ in head.headers} >= {b"host"}
    assert (parser.begun, parser.head_bytes) == (False, 0)


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_requests_behind_one_another_are_read_one_by_one(piece):
    """No call reads into the next message."""
    found, _ = read(GET + POST + GET, piece)
    assert [head.method for head in found.heads] == ["GET", "POST", "GET"]
    assert found.heads[0].headers == [(b"host", b"h"), (b"x-y", b"z")]
    parser = RequestParser(Recorder(), LIMIT_BYTES)
    assert parser.feed(GET + POST) == len(GET)


@pytest.mark.parametrize("piece", [1, 100_000])
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * LIMIT_BYTES, HeadersTooLarge),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a:\r\n" * (MAX_HEADERS + 1) + b"\r\n", HeadersTooLarge),
        (CHUNKED.replace(b"ext=1", b"e" * 2 * LIMIT_BYTES), HeadersTooLarge),
        (CHUNKED.replace(b"Trailer: t", b"T: " + b"t" * 2 * LIMIT_BYTES), HeadersTooLarge),
        (b"NONSENSE\r\n\r\n", BadFraming),
        (b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", BadFraming),
        (GET.replace(b"Host: h", b"Host: h\r\nHost: i"), BadFraming),
        (POST.replace(b"5", b"x"), BadFraming),
    ],
    ids=["long head", "many headers", "extension", "trailer", "nonsense", "connect", "two hosts", "length"],
)
def test_what_is_refused_raises(data, error, piece):
    """While it comes. Extensions and trailers that came whole, in one read, take no memory any more."""
    if b"chunked" in data and piece > len(data):
        assert read(data, piece)[0].bodies == [b"hello"]
        return
    with pytest.raises(error) as raised:
        read(data, piece)
    assert raised.value.__cause__ is None


def test_a_post_without_a_length_is_known():
    """It may have been meant to have a body."""
    parser = RequestParser(Recorder(), LIMIT_BYTES)
    for data, bodyless in ((GET, False), (b"POST / HTTP/1.1\r\nHost: h\r\n\r\n", True), (POST, False)):
        left = data
        while left:
            left = left[parser.feed(left) :]
        assert parser.bodyless_post is bodyless
