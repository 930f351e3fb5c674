"""The HTTP server reads good requests however they are cut, and refuses bad ones with a problem document."""

import asyncio
import contextlib
import http.client
import time

import pytest

from gateway.http.lingering import LINGER_S
from gateway.http.state import DISCARDED_A_SECOND
from tests.lab.examples import some
from tests.process.serving import Server, problem, serving

GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = b"Connection: close\r\n\r\n"

GOOD = {
    "content-length": (POST + b"Content-Length: 5\r\n" + CLOSE + b"a\r\n\r\n", b"a\r\n\r\n"),
    "padded length": (POST + b"Content-Length: 2 \r\n" + CLOSE + b"ab", b"ab"),
    "chunks": (POST + b"Transfer-Encoding: CHUNKED\r\n" + CLOSE + b"1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n", b"abc"),
    "padded coding": (POST + b"Transfer-Encoding: chunked \t\r\n" + CLOSE + b"1\r\na\r\n0\r\n\r\n", b"a"),
    "chunk of blank lines": (
        POST + b"Transfer-Encoding: chunked\r\n" + CLOSE + b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
    ),
    "trailers": (POST + b"Transfer-Encoding: chunked\r\n" + CLOSE + b"1\r\na\r\n0\r\nHost: b\r\n\r\n", b"a"),
    "leading blank lines": (b"\r\n\r\n\r\n" + POST + b"Content-Length: 1\r\n" + CLOSE + b"x", b"x"),
    "absolute form": (
        b"POST http://a/echo?q HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n" + CLOSE + b"x",
        b"x",
    ),
    "an upgrade not taken": (
        POST + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
        b"abc",
    ),
    "HTTP/1.0": (b"POST /echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
}

BAD = {
    "negative length": POST + b"Content-Length: -1\r\n\r\nx",
    "lettered length": POST + b"Content-Length: abc\r\n\r\nx",
    "signed length": POST + b"Content-Length: +3\r\n\r\nabc",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "the same length twice": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "list of lengths": POST + b"Content-Length: 1, 1\r\n\r\na",
    "empty length": POST + b"Content-Length: \r\n\r\na",
    "huge length": POST + b"Content-Length: 99999999999999999999999\r\n\r\na",
    "length and chunks": POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    "gzip": POST + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\nabc",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\nabc",
    "vertical tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": CHUNKS + b"zz\r\n",
    "negative chunk": CHUNKS + b"-1\r\n",
    "bare LF in chunks": CHUNKS + b"1\na\n0\n\n",
    "huge chunk": CHUNKS + b"fffffffffffffffff\r\n",
    "chunk too long": CHUNKS + b"1\r\nab\r\n0\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 named": b"GET / HTTP/0.9\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 in the line": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\nHost: a\r\nA\0: b\r\n\r\n",
    "NUL in the target": b"GET /\0a HTTP/1.1\r\nHost: a\r\n\r\n",
    "control character": b"GET / HTTP/1.1\r\nHost: a\r\nA: \x01\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "one bare LF": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "another host in the target": b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "raw UTF-8 in the target": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "no slash": b"GET abc HTTP/1.1\r\nHost: a\r\n\r\n",
    "tabs": b"GET\t/ HTTP/1.1\r\n\r\n",
}


UPGRADES = {
    "h2c": b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "websocket": b"\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_good_requests_are_read_whole_and_byte_by_byte(name: str) -> None:
    """A body comes out as it went in, however the network cuts the request."""
    request, body = GOOD[name]

    async def test(server: Server) -> None:
        whole = await server.exchange(request)
        assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
        assert whole.endswith(b"\r\n\r\n" + body)
        async with server.client() as client:
            for byte in request:
                client.send(bytes([byte]))
                await client.writer.drain()
                await asyncio.sleep(0)
            assert (await client.rest()).endswith(b"\r\n\r\n" + body)

    serving(test)


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_get_a_problem_and_the_end(name: str) -> None:
    """Whole or byte by byte, the answer is one 400 problem document, and nothing behind it is read as a request."""
    request = BAD[name]

    async def test(server: Server) -> None:
        assert (
            problem(await server.exchange(request + b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"))["code"] == "bad-framing"
        )
        async with server.client() as client:
            for byte in request:
                client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert problem(await client.rest())["status"] == 400

    serving(test)


@pytest.mark.parametrize("name", some([*BAD]))
def test_an_upgrade_changes_no_refusal(name: str) -> None:
    """What is a 400 stays one where the request also asks for another protocol."""

    async def test(server: Server) -> None:
        for upgrade in UPGRADES.values():
            request = BAD[name].replace(b"\r\n", upgrade, 1)
            assert problem(await server.exchange(request))["code"] == "bad-framing"
            async with server.client() as client:
                for byte in request:
                    client.send(bytes([byte]))
                    await asyncio.sleep(0)
                assert problem(await client.rest())["code"] == "bad-framing"

    serving(test)


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("path", [b"/echo", b"/headers"])
def test_no_upgrade_is_taken(path: bytes, upgrade: str) -> None:
    """Neither a WebSocket nor HTTP/2 is spoken: the request is served as HTTP/1.1, and so is the next one."""
    head = b" HTTP/1.1" + UPGRADES[upgrade] + b"Host: a\r\nContent-Length: 3\r\n\r\nabc"

    async def test(server: Server) -> None:
        async with server.client() as client:
            for method in (b"POST ", b"GET "):
                client.send(method + path + head)
                status, headers, body = await client.response()
                assert status == 200
                assert "upgrade" not in headers
                assert body == b"abc" if path == b"/echo" else b"upgrade:" not in body

    serving(test)


def test_blanks_around_a_value_are_no_part_of_it() -> None:
    """Every header's value is read without the blanks and tabs that HTTP allows on both sides of it."""
    names = [b"Host", b"Expect", b"Content-Length", b"Content-Type", b"Ordering-Key", b"Idempotency-Key", b"Origin"]
    values = [b"a", b"100-continue", b"0", b"text/plain", b"k", b"i", b"http://a"]
    fields = list(zip(names, values, strict=True))
    request = b"".join(b"%b:\t %b \t \r\n" % field for field in fields)

    async def test(server: Server) -> None:
        answer = await server.exchange(b"POST /headers HTTP/1.1\r\n" + request + CLOSE)
        assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 100"))
        seen = answer.rpartition(b"\r\n\r\n")[2].split(b"\n")
        assert seen[: len(fields)] == [b"%b: %b" % (name.lower(), value) for name, value in fields]

    serving(test)


def test_trailers_do_not_become_headers() -> None:
    """What comes behind a chunked body cannot pose as a header of its request."""

    async def test(server: Server) -> None:
        head = b"POST /headers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + CLOSE
        answer = await server.exchange(head + b"1\r\na\r\n0\r\nOrigin: evil\r\n\r\n")
        assert b"evil" not in answer
        assert b"host: a" in answer

    serving(test)


def test_pipelined_requests_are_answered_in_order() -> None:
    """Many requests in one packet are answered one after the other, bodies and all."""
    one = POST + b"Content-Length: 3\r\n\r\n"
    chunked = CHUNKS + b"3\r\n%b\r\n0\r\n\r\n"

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(b"".join(one + b"%03d" % i + chunked % b"%03d" % (i + 1) for i in range(0, 500, 2)))
            assert [(await client.response())[2] for _ in range(500)] == [b"%03d" % i for i in range(500)]

    serving(test)


def test_bad_request_behind_a_good_one_waits_its_turn() -> None:
    """The good request's answer comes first and whole."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(POST + b"Content-Length: 2\r\n\r\nok" + b"nonsense\r\n\r\n")
            assert (await client.response())[2] == b"ok"
            assert problem(await client.rest())["code"] == "bad-framing"

    serving(test)


@pytest.mark.parametrize("cut", [1, 700, 100_000])
def test_header_block_has_a_bound(cut: int) -> None:
    """A block that never ends is refused with 431 when it is over the bound, however it comes."""

    async def test(server: Server) -> None:
        block = GET + b"X: " + b"a" * 100_000
        async with server.client() as client:
            for start in range(0, len(block) if cut > 1 else 4_000, cut):
                client.send(block[start : start + cut])
                await asyncio.sleep(0)
            assert problem(await client.rest())["code"] == "headers-too-large"

    serving(test, max_header_bytes=2048)


def test_long_target_counts_as_header_block() -> None:
    """A request line above the bound is a 431 too; one below is served."""

    async def test(server: Server) -> None:
        answer = await server.exchange(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert problem(answer)["status"] == 431
        answer = await server.exchange(b"GET /echo?" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: a\r\n" + CLOSE)
        assert answer.startswith(b"HTTP/1.1 200 ")

    serving(test)


@pytest.mark.parametrize(
    "tail",
    [b"0\r\n" + b"X: y\r\n" * 50_000, b"1;" + b"e" * 300_000, b"1\r\nx\r\n" * 50_000, b"1;a=b\r\n\n\r\n" * 50_000],
    ids=["trailers", "extension", "chunks", "extensions"],
)
def test_the_framing_of_chunks_has_a_bound(tail: bytes) -> None:
    """Small chunks, extensions and trailers are one limit."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(CHUNKS + b"1\r\na\r\n" + tail)
            assert problem(await client.rest())["code"] == "bad-framing"

    serving(test)


@pytest.mark.parametrize("half", [False, True])
def test_a_body_in_many_small_chunks_is_read_in_slices(half: bool) -> None:
    """The body and the request behind it are complete, also if the client has closed its sending side."""

    async def test(server: Server) -> None:
        body = bytes(range(256)) * 800
        chunks = b"".join(b"5\r\n%b\r\n" % body[start : start + 5] for start in range(0, len(body), 5))
        one = CHUNKS + chunks + b"0\r\n\r\n"
        async with server.client() as client:
            client.send(GET + b"\r\n" + one + one + GET + (b"\r\n" if half else CLOSE))
            if half:
                client.writer.write_eof()
            answers = await client.rest()
            assert answers.count(b"HTTP/1.1 200 ") == 4
            assert answers.count(body) == 2

    serving(test)


def test_failures_of_the_application_are_problems() -> None:
    """An exception, a header that would split the response: 500 as a problem; after the first bytes: cut off."""

    async def test(server: Server) -> None:
        for path in (b"/fail", b"/bad_header"):
            answer = await server.exchange(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            assert problem(answer)["code"] == "internal"
        cut = await server.exchange(b"GET /fail_late HTTP/1.1\r\nHost: a\r\n\r\n")
        assert cut.startswith(b"HTTP/1.1 200 ")
        assert cut.endswith(b"5\r\nfirst\r\n")

    serving(test)


def test_early_answer_reaches_a_client_that_is_still_sending() -> None:
    """A 413 before the body is read is readable: the connection closes without a reset."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + b"x" * 300_000)
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 413 ")
            assert b"connection: close" in head
            client.send(b"x" * 300_000)
            await client.writer.drain()
            assert await client.rest() == b"too large"

    serving(test)


def test_an_early_answer_reaches_a_client_that_sends_first_and_reads_then() -> None:
    """Python's own client sends a body of 9 MB whole before it looks for an answer, and finds the 413."""

    async def test(server: Server) -> None:
        host, port = server.address

        def post() -> tuple[int, bytes]:
            with contextlib.closing(http.client.HTTPConnection(host, port, timeout=10)) as connection:
                connection.request("POST", "/early", b"x" * 9_000_000, {"content-type": "application/octet-stream"})
                answer = connection.getresponse()
                return answer.status, answer.read()

        assert await asyncio.to_thread(post) == (413, b"too large")

    serving(test)


def test_refused_uploads_are_discarded_slowly_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What many clients go on sending after a refusal takes a bounded part of the loop's time, and all get answers."""
    monkeypatch.setattr("gateway.http.connection.LINGER_S", 60.0)  # it is not the time that ends it

    async def test(server: Server) -> None:
        upload = b"POST /echo HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n" + bytes(24 << 20)

        async def send(*, ends: asyncio.Event) -> None:
            async with server.client() as client:
                client.send(upload)
                assert (await client.response())[0] == 400
                await ends.wait()

        ends = asyncio.Event()
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as clients:
            for _ in range(8):
                clients.create_task(send(ends=ends))
            await asyncio.sleep(0.5)
            lingering = [each._lingering for each in server.connections if each._lingering is not None]
            discarded = sum(each.discarded_bytes for each in lingering)
            assert 0 < discarded < 1.5 * DISCARDED_A_SECOND * (time.monotonic() - began_s)
            ends.set()

    serving(test)


def test_lingering_has_a_bound_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that goes on sending after the last answer is cut off after so much."""
    monkeypatch.setattr("gateway.http.connection.LINGER_S", 60.0)  # it is not the time that ends it

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n")
            with pytest.raises(ConnectionError):  # noqa: PT012 (the reset comes at some write)
                async with asyncio.timeout(20):
                    while True:
                        client.send(b"x" * 65536)
                        await client.writer.drain()
                        await asyncio.sleep(0)

    serving(test)


def test_lingering_has_a_bound_in_time() -> None:
    """A client that neither sends nor closes after the last answer does not keep its connection."""

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(b"nonsense\r\n\r\n")
            assert problem(await client.rest())["status"] == 400
            assert len(server.server.server_state.connections) == 1
            async with asyncio.timeout(LINGER_S * 2):
                await server.server.server_state.all_closed()

    serving(test)


def test_expect_is_answered_only_when_the_body_is_wanted() -> None:
    """100 comes when the application reads; an early 413 comes alone; a body that came by itself needs no 100."""
    expect = b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"

    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(POST + expect)
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"abc")
            assert (await client.response())[2] == b"abc"
            client.send(POST + expect + b"def")
            assert (await client.response())[::2] == (200, b"def")
        early = await server.exchange(b"POST /early HTTP/1.1\r\nHost: a\r\n" + expect)
        assert early.startswith(b"HTTP/1.1 413 ")
        assert b"100 Continue" not in early

    serving(test)


def test_head_and_204_have_no_body() -> None:
    """The connection is in step after a response that has no body."""

    async def test(server: Server) -> None:
        server.app.begin_drain()
        async with server.client() as client:
            client.send(b"HEAD /seen HTTP/1.1\r\nHost: a\r\n\r\nGET /park HTTP/1.1\r\nHost: a\r\n\r\n" + GET + b"\r\n")
            async with asyncio.timeout(20):
                assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                no_content = await client.reader.readuntil(b"\r\n\r\n")
            assert no_content.startswith(b"HTTP/1.1 204 ")
            assert b"transfer-encoding" not in no_content
            assert (await client.response())[0] == 200

    serving(test)


def test_unknown_length_is_chunked_or_ends_with_the_connection() -> None:
    """HTTP/1.1 gets chunks; HTTP/1.0, which knows none, gets the bytes and the end."""

    async def test(server: Server) -> None:
        chunked = await server.exchange(b"GET /drip HTTP/1.1\r\nHost: a\r\n" + CLOSE)
        assert chunked.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")
        plain = await server.exchange(b"GET /drip HTTP/1.0\r\n\r\n")
        assert plain.endswith(b"\r\n\r\nonetwothree")
        assert b"chunked" not in plain

    serving(test)


def test_large_bodies_go_through_whole() -> None:
    """8 MiB in and out, unchanged, and the connection is in step afterwards."""
    body = bytes(range(256)) * 32768

    async def test(server: Server) -> None:
        async with server.client() as client:
            for _ in range(2):
                client.send(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                assert (await client.response())[2] == body

    serving(test)
