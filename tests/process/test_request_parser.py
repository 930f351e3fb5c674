"""The parser of requests without a socket: whole, byte by byte, and with the next request behind it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadFraming, HeadersTooLarge
from gateway.http.known_heads import LONGEST, MOST, KnownHeads
from gateway.http.request_parser import CHUNK_FRAMING_BYTES, MAX_HEADERS, PIECE_BYTES, RequestParser

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
        self.bodies.append(bytearray())

    def on_request_body(self, body):
        self.bodies[-1] += body

    def on_request_end(self):
        self.ends += 1


def read(data, piece):
    """Feeds the data in pieces of that size, each until it is used up."""
    found = Recorder()
    parser = RequestParser(found, LIMIT_BYTES, KnownHeads())
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
    path, _, query = target.partition(b"?")
    assert (head.method, head.raw_path, head.query, head.version) == (method, path, query, "1.1")
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
    parser = RequestParser(Recorder(), LIMIT_BYTES, KnownHeads())
    assert parser.feed(GET + POST) == len(GET)


@pytest.mark.parametrize("piece", [1, 100_000])
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * LIMIT_BYTES, HeadersTooLarge),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a:\r\n" * (MAX_HEADERS + 1) + b"\r\n", HeadersTooLarge),
        (CHUNKED.replace(b"ext=1", b"e" * CHUNK_FRAMING_BYTES), BadFraming),
        (CHUNKED.replace(b"Trailer: t", b"T: " + b"t" * CHUNK_FRAMING_BYTES), BadFraming),
        (CHUNKED.replace(b"2;", b"1\r\n\n\r\n" * 5000 + b"2;"), BadFraming),
        (
            CHUNKED.replace(b"2;", b"%x\r\n%b\r\n" % (30_000, b"x" * 30_000) + b"1;a=b\r\nx\r\n" * 2500 + b"2;"),
            BadFraming,
        ),
        (b"NONSENSE\r\n\r\n", BadFraming),
        (b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", BadFraming),
        (GET.replace(b"Host: h", b"Host: h\r\nHost: i"), BadFraming),
        (POST.replace(b"5", b"x"), BadFraming),
    ],
    ids=[
        "long head",
        "many headers",
        "extension",
        "trailer",
        "chunks",
        "late chunks",
        "nonsense",
        "connect",
        "two hosts",
        "length",
    ],
)
def test_what_is_refused_raises(data, error, piece):
    """While it comes, however it is cut. A large body before does not make up for the framing behind it."""
    with pytest.raises(error) as raised:
        read(data, piece)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("size", [5, 20, 100, 16384])
def test_chunks_of_a_clients_writes_are_accepted(size):
    """As many as there are: their framing is not longer than the body."""
    chunks = b"%x\r\n%b\r\n" % (size, b"x" * size) * (400_000 // size)
    data = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    found, _ = read(data, 100_000)
    assert (len(found.bodies[0]), found.ends) == (400_000 // size * size, 1)


def test_small_chunks_are_refused_early():
    """Soon after the allowance is used, and no call reads more than a piece."""
    parser, taken = RequestParser(Recorder(), LIMIT_BYTES, KnownHeads()), []
    chunks = b"1\r\nx\r\n" * 100_000
    parser.feed(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")

    def feed_all(left):
        while left:
            taken.append(parser.feed(left))
            left = left[taken[-1] :]

    with pytest.raises(BadFraming, match=f"chunks are too small: their .* {CHUNK_FRAMING_BYTES} bytes"):
        feed_all(chunks)
    assert max(taken) <= PIECE_BYTES
    assert sum(taken) < 2 * CHUNK_FRAMING_BYTES


@pytest.mark.parametrize("piece", [1, 100_000])
@pytest.mark.parametrize("blanks", [b"", b" ", b"\t", b" \t", b"\t \t "])
def test_white_space_around_the_coding_is_no_part_of_it(blanks, piece):
    """RFC 9110, section 5.5. Also with an upgrade, and with the head's size as it came."""
    for more in (b"", b"Connection: upgrade\r\nUpgrade: h2c\r\n"):
        head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:%bchunked%b\r\n%b\r\n" % (blanks, blanks, more)
        found, _ = read(head + b"5\r\nhello\r\n0\r\n\r\n" + GET, piece)
        assert (found.bodies, found.ends) == ([b"hello", b""], 2)
        assert found.heads[0].size == len(head)
        assert (b"transfer-encoding", b"chunked") in found.heads[0].headers


def test_a_post_without_a_length_is_known():
    """It may have been meant to have a body."""
    parser = RequestParser(Recorder(), LIMIT_BYTES, KnownHeads())
    for data, bodyless in ((GET, False), (b"POST / HTTP/1.1\r\nHost: h\r\n\r\n", True), (POST, False)):
        left = data
        while left:
            left = left[parser.feed(left) :]
        assert parser.bodyless_post is bodyless


def request(method, path, body, *fields):
    """A request with a Content-Length, if it has a body."""
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", *fields, *length, "", ""]).encode() + body


REQUESTS = [
    request("GET", "/a", b""),
    request("POST", "/a", b"12345"),
    request("POST", "/a", b"abcde"),
    request("POST", "/b", b"12345"),
    request("POST", "/a", b"GET /x HTTP/1.1\r\n\r\n"),
    request("POST", "/a", b"12345", "Expect: 100-continue"),
    b"\r\n" + request("GET", "/a", b""),
    CHUNKED.replace(b"Connection: close\r\n", b""),
    UPGRADE,
    b"GET /a HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
]


@given(st.lists(st.sampled_from(REQUESTS), min_size=2, max_size=12), st.integers(1, 200))
def test_a_repeated_head_is_read_like_the_first(requests, piece):
    """Whatever comes before a request on its connection, it is read as on a new one."""
    together, _ = read(b"".join(requests), piece)
    alone = [read(each, 100_000)[0] for each in requests]
    assert together.heads == [each.heads[0] for each in alone]
    assert together.bodies == [each.bodies[0] for each in alone]
    assert together.ends == len(requests)


@pytest.mark.parametrize("data", [REQUESTS[0], REQUESTS[1]], ids=["get", "post"])
def test_a_repeated_head_is_not_parsed_again(data):
    """Its value is that of the first one, whatever comes between. A head in pieces is a new value."""
    assert len({id(head) for head in read(data * 3, 100_000)[0].heads}) == 1
    assert len({id(head) for head in read(data * 2, 3)[0].heads}) == 2
    between, _ = read(data + REQUESTS[3] + data, 100_000)
    assert between.heads[0] is between.heads[2]


def test_few_short_heads_are_known():
    """A long one is not kept, and those that are kept are forgotten when there are many."""
    known = KnownHeads()
    head = read(GET, 100_000)[0].heads[0]
    known.add(bytes(LONGEST), head, 0)
    known.add(bytes(LONGEST + 1), head, 0)
    assert known.find(bytes(LONGEST)) == (head, 0)
    assert known.find(bytes(LONGEST + 1)) is None
    for number in range(MOST):
        known.add(b"%d" % number, head, number)
    assert known.find(bytes(LONGEST)) is None
    assert known.find(b"%d" % (MOST - 1)) == (head, MOST - 1)


def outcome(parser, found, data):
    """The head that the parser reads, and how much of the data; or why it refuses it."""
    try:
        taken = parser.feed(data)
    except (BadFraming, HeadersTooLarge) as error:
        return type(error), error.detail
    return found.heads[-1:], found.ends, taken


FIELDS = b"Host: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: keep-alive\r\nX-Y: \xff z \r\n\r\n"


@pytest.mark.parametrize(
    ("line", "shared"),
    [
        (b"POST /leases/A_b-9/ack HTTP/1.1", True),
        (b"GET /queues/a/next?timeout=0&ack=A_b-9&x=%2F HTTP/1.1", True),
        (b"GET /a? HTTP/1.1", True),
        (b"GET //a/../b HTTP/1.1", True),
        (b"GET /a%2Fb HTTP/1.1", False),
        (b"GET /a#b HTTP/1.1", False),
        (b"GET /a?b#c HTTP/1.1", False),
        (b"GET http://h/a HTTP/1.1", False),
        (b"GET http://other/a HTTP/1.1", False),
        (b"GET /a HTTP/1.0", False),
        (b"GET /a HTTP/1.2", False),
        (b"GET /a  HTTP/1.1", False),
        (b"GET  /a HTTP/1.1", False),
        (b"get /a HTTP/1.1", False),
        (b"CONNECT /a HTTP/1.1", False),
        (b"OPTIONS * HTTP/1.1", False),
        (b"GET /\xc3\xa4 HTTP/1.1", False),
        (b"GET /a\nb HTTP/1.1", False),
        (b"GET /a HTTP/1.1\n", False),
        (b"", False),
        (b"X", False),
    ],
)
def test_a_head_with_known_fields_means_the_same(line, shared):
    """Whether its fields were read before or not. Only plain request lines are read without the parser."""
    data, known = line + b"\r\n" + FIELDS, KnownHeads()
    first = Recorder()
    RequestParser(first, LIMIT_BYTES, known).feed(b"PUT /first HTTP/1.1\r\n" + FIELDS)
    found, alone = Recorder(), Recorder()
    expected = outcome(RequestParser(alone, LIMIT_BYTES, KnownHeads()), alone, data)
    assert outcome(RequestParser(found, LIMIT_BYTES, known), found, data) == expected
    assert (bool(found.heads) and found.heads[0].headers is first.heads[0].headers) is shared


def test_a_request_line_does_not_pass_as_known_fields():
    """Lines before a request are no request line, although what follows them was read as a whole before."""
    known = KnownHeads()
    whole = b"GET /a HTTP/1.1\r\n" + FIELDS
    RequestParser(Recorder(), LIMIT_BYTES, known).feed(b"\r\n" + whole)
    RequestParser(Recorder(), LIMIT_BYTES, known).feed(whole)
    with pytest.raises(BadFraming):
        RequestParser(Recorder(), LIMIT_BYTES, known).feed(b"GET /a HTTP/1.1\r\n" + whole)
