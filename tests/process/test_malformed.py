"""What a client reads that sends malformed HTTP: what is wrong, and what is allowed, not the parser's own words."""

import pytest

from gateway.errors import BadFraming
from gateway.http.malformed import sentence_for
from tests.process.test_request_parser import read

GET = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "TLS": (b"\x16\x03\x01\x02\x00\r\n\r\n", "the request does not begin with a method in upper case"),
    "lower case": (b"get / HTTP/1.1\r\n\r\n", "the request does not begin with a method in upper case"),
    "long method": (b"GETX / HTTP/1.1\r\n\r\n", "the method is not followed by one space"),
    "method of RTSP": (b"PLAY / HTTP/1.1\r\nHost: h\r\n\r\n", "the method is not one of HTTP"),
    "no target": (b"GET  HTTP/1.1\r\n\r\n", "the request target is not a path"),
    "target beyond ASCII": ("GET /\u00e9 HTTP/1.1\r\nHost: h\r\n\r\n".encode(), "the request target is not a path"),
    "query beyond ASCII": ("GET /?\u00e9 HTTP/1.1\r\nHost: h\r\n\r\n".encode(), "the request target is not a path"),
    "port of the target": (
        b"GET http://h:99999/ HTTP/1.1\r\nHost: h:99999\r\n\r\n",
        "the request target is not a path",
    ),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", "the request target has a fragment, which begins with #"),
    "space in the target": (b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", "the request target is not followed by HTTP/1.1"),
    "version": (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", "the HTTP version of the request line is not supported"),
    "no version": (b"GET /\r\n\r\n", "HTTP/0.9 is not supported; use HTTP/1.1"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 is not supported; use HTTP/1.1"),
    "line feed": (b"GET / HTTP/1.1\nHost: h\n\n", "the request line does not end with CRLF"),
    "line feed behind a header": (GET + b"Host: h\nX: y\r\n\r\n", "a line of the headers does not end with CRLF"),
    "header's name": (GET + b"Host: h\r\nX Y: z\r\n\r\n", "the name of a header is empty or has a character"),
    "no colon": (GET + b"Host: h\r\nX\r\n\r\n", "the name of a header is empty or has a character"),
    "space before the headers": (GET + b" Host: h\r\n\r\n", "there is white space before the first header"),
    "folded header": (GET + b"Host: h\r\nX: y\r\n z\r\n\r\n", "the value of a header continues on the next line"),
    "header's value": (GET + b"Host: h\r\nX: \x00\r\n\r\n", "the value of a header has a control character"),
    "no host": (GET + b"\r\n", "the Host header is missing"),
    "two hosts": (GET + b"Host: h\r\nHost: h\r\n\r\n", "Host is given 2 times; send it once"),
    "another host": (
        b"GET http://i/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "the request target and the Host header name different",
    ),
    "length": (POST + b"Content-Length: x\r\n\r\n", "Content-Length is not a number of bytes"),
    "no length": (POST + b"Content-Length:\r\n\r\n", "Content-Length is empty"),
    "long length": (POST + b"Content-Length: 99999999999999999999\r\n\r\n", "Content-Length does not fit into 64 bits"),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", "Content-Length is given more than once"),
    "coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding: 'gzip' is not supported"),
    "coding behind chunked": (
        POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
        "the Transfer-Encoding is not supported; the only one allowed is chunked",
    ),
    "two codings": (
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        "Transfer-Encoding: 'gzip, chunked' is not supported; the only one allowed is chunked",
    ),
    "length and coding": (
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "the request has both Content-Length and Transfer-Encoding; send only one of them",
    ),
    "coding in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 has no Transfer-Encoding; use HTTP/1.1",
    ),
    "size of a chunk": (CHUNKED + b"x\r\n", "the size of a chunk is not a hexadecimal number"),
    "large chunk": (CHUNKED + b"fffffffffffffffffff\r\n", "the size of a chunk does not fit into 64 bits"),
    "line feed behind a size": (CHUNKED + b"1\na", "the size line of a chunk does not end with CRLF"),
    "long chunk": (CHUNKED + b"1\r\nab\r\n", "the data of a chunk is not followed by CRLF"),
    "extension": (CHUNKED + b"1;\x01\r\n", "a chunk extension has a character that is not allowed"),
    "trailer": (CHUNKED + b"0\r\nX Y: z\r\n\r\n", "the name of a header is empty or has a character"),
    "CONNECT": (b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", "CONNECT is not supported"),
}


@pytest.mark.parametrize("piece", [1, 100_000])
@pytest.mark.parametrize(("data", "detail"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_explained(data, detail, piece):
    """However it is cut: what is wrong with it, and what is allowed."""
    with pytest.raises(BadFraming) as raised:
        read(data, piece)
    assert raised.value.detail.startswith(detail)


def test_a_message_that_is_not_known_is_shown():
    """A later llhttp may have others."""
    assert sentence_for("Something new") == "this is not an HTTP/1.1 request: Something new"
    assert sentence_for("") == "this is not an HTTP/1.1 request"
