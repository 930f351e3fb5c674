"""The tests' own HTTP client reads what httpx reads, and fails as httpx does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.lab import plain
from tests.lab.waiting import until

Script = list[list[bytes]]
"""For each connection what is answered to each of its requests. After the last one the connection is closed."""
Serve = Callable[[Script], str]
CLOSED = b"closed"
TEN = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture
def seen() -> list[bytes]:
    """The requests that came, and CLOSED after those of each connection."""
    return []


@pytest.fixture
def serve(seen: list[bytes]) -> Iterator[Serve]:
    """Starts a server that follows the script; returns its URL."""
    with contextlib.ExitStack() as stack:

        def start(script: Script) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=_follow, args=(listener, script, seen))
            thread.start()
            stack.callback(thread.join, 60)
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield start


def _follow(listener: socket.socket, script: Script, seen: list[bytes]) -> None:
    for answers in script:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(60)
            for answer in answers:
                request = b""
                while not request.endswith((b"0\r\n\r\n",) if b"chunked" in request else (b"\r\n\r\n", b"end")):
                    request += connection.recv(65536)
                seen.append(request)
                with contextlib.suppress(OSError):  # the client has left
                    for byte in answer:
                        connection.sendall(bytes([byte]))
        seen.append(CLOSED)


FORMS = {
    "length": (TEN + b"0123456789", "0123456789"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n012\r\n1\r\n3\r\n0\r\n\r\n", "0123"),
    "until the end": (b"HTTP/1.1 200 OK\r\n\r\n0123456789", "0123456789"),
    "after 100": (b"HTTP/1.1 100 Continue\r\n\r\n" + TEN + b"0123456789", "0123456789"),
    "nothing": (b"HTTP/1.1 204 No Content\r\nX: \r\nY: 1\r\n\r\n", ""),
}


@pytest.mark.parametrize(("answer", "text"), FORMS.values(), ids=FORMS)
def test_an_answer_is_read_as_httpx_reads_it(serve: Serve, answer: bytes, text: str) -> None:
    """Byte by byte: status, phrase, headers and body."""
    url = serve([[answer], [answer]])
    ours, theirs = plain.get(url), httpx.get(url, trust_env=False)
    assert ours.text == theirs.text == text
    assert (ours.status_code, ours.reason_phrase) == (theirs.status_code, theirs.reason_phrase)
    assert ours.headers == theirs.headers


def test_connections_are_used_again_unless_they_are_closed(serve: Serve, seen: list[bytes]) -> None:
    """Two requests on one, the third on another, since the server has closed the first."""
    answer = TEN + b"0123456789"
    url = serve([[answer, answer], [answer]])
    with plain.client(base_url=url) as http:
        for number in range(3):
            assert http.post("/a?b=%20", content=b"end").text == "0123456789"
            until(lambda number=number: number != 1 or CLOSED in seen)  # type: ignore[misc]
    assert seen[0].startswith(b"POST /a?b=%20 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nContent-Length: 3\r\n" in seen[0]


def test_a_body_of_unknown_length_is_sent_in_chunks(serve: Serve, seen: list[bytes]) -> None:
    """And an answer to HEAD has no body, whatever its length says."""
    url = serve([[TEN + b"0123456789"], [TEN]])
    with plain.client(base_url=url) as http:
        assert http.post("/", content=iter([b"ab", b"", b"c"])).status_code == 200
        assert http.head("/").text == ""
    assert seen[0].endswith(b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", httpx.RemoteProtocolError),
        (TEN + b"012345678", httpx.RemoteProtocolError),
        (b"HTTP/1.1 nonsense\r\n\r\n", httpx.RemoteProtocolError),
    ],
)
def test_a_broken_answer_is_an_error(serve: Serve, answer: bytes, error: type[Exception]) -> None:
    """The same as httpx raises."""
    url = serve([[answer], [answer]])
    with pytest.raises(error):
        plain.get(url)
    with pytest.raises(error):
        httpx.get(url, trust_env=False)


def test_no_answer_in_time_and_no_server_are_errors() -> None:
    """As httpx raises them."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(httpx.ReadTimeout):
            plain.get(url, timeout=0.05)
    with pytest.raises(httpx.ConnectError):
        plain.get(url)


def test_a_stream_comes_part_by_part() -> None:
    """What has come is read while the answer goes on; leaving it closes the connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listener:
        with plain.client() as http:
            thread = threading.Thread(target=_one_part, args=(listener, theirs))
            thread.start()
            with http.stream("GET", f"http://127.0.0.1:{listener.getsockname()[1]}") as answer:
                assert next(answer.iter_lines()) == "first"
            assert ours.recv(100) == b"closed"
            thread.join(60)


def _one_part(listener: socket.socket, told: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")
        assert connection.recv(1) == b""
    told.sendall(b"closed")
