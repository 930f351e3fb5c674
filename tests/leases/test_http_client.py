"""The HTTP client between replicas: whole responses only, however they are cut, and nothing else."""

import asyncio

import pytest

from gateway.forwarding.http_client import BadResponseError, ConnectionEndedError, HttpConnection

LIMIT_BYTES = 1000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Y: z\r\n\r\nhi"


def posting(answers, work, piece=65536):
    """Runs `work` with a connection to a server that gives each request its answer, in pieces, and closes at None."""
    received = []

    async def serve(reader, writer):
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            received.append(head + await reader.readexactly(4))
            if answer is None:
                break
            for start in range(0, len(answer), piece):
                writer.write(answer[start : start + piece])
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connection = await HttpConnection.open("127.0.0.1", port, tls=None, name=None, limit_bytes=LIMIT_BYTES)
        try:
            async with asyncio.timeout(10):
                await work(connection)
        finally:
            connection.abort()
            server.close()
            await asyncio.sleep(0.01)

    asyncio.run(main())
    return received


async def post(connection):
    return await connection.post("/path", [(b"host", b"h"), (b"x-a", b"b")], b"body")


@pytest.mark.parametrize("piece", [1, 7, 65536])
@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-y: z\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
    ],
    ids=["length", "informational", "chunked"],
)
def test_responses_come_one_after_another(answer, piece):
    """Over one connection, each whole."""

    async def work(connection):
        for _ in range(3):
            response = await post(connection)
            assert (response.status, response.headers[b"x-y"], response.body) == (200, b"z", b"hi")
            assert connection.usable

    received = posting([answer] * 3, work, piece)
    assert len(set(received)) == 1
    assert received[0].startswith(b"POST /path HTTP/1.1\r\n")
    assert sorted(line.lower() for line in received[0].split(b"\r\n")[1:]) == sorted(
        [b"host: h", b"x-a: b", b"content-length: 4", b"", b"body"]
    )


@pytest.mark.parametrize("status", [b"204 No Content", b"307 Temporary Redirect", b"500 Oops"])
def test_no_status_is_followed(status):
    """It is the caller's."""

    async def work(connection):
        assert (await post(connection)).status == int(status[:3])

    posting([b"HTTP/1.1 %b\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n" % status], work)


def test_the_last_response_of_a_connection_is_known():
    """`Connection: close`: it is not used again."""

    async def work(connection):
        assert (await post(connection)).body == b"hi"
        assert not connection.usable

    posting([OK.replace(b"X-Y: z", b"Connection: close")], work)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, ConnectionEndedError),
        (OK[:-1], ConnectionEndedError),
        (OK[:20], ConnectionEndedError),
        (b"ERROR\r\n\r\n", BadResponseError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000, BadResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000, BadResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", BadResponseError),
    ],
    ids=["nothing", "half a body", "half a head", "no HTTP", "a long head", "a long body", "two lengths"],
)
def test_what_is_no_whole_response_is_an_error(answer, error):
    """And the connection is of no use any more."""

    async def work(connection):
        with pytest.raises(error):
            await post(connection)
        assert not connection.usable

    posting([answer], work)


def test_a_cancelled_request_ends_its_connection():
    """The answer to it would be taken for that of the next one."""

    async def work(connection):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await post(connection)
        assert not connection.usable

    posting([b"HTTP/1.1 100 Continue\r\n\r\n", OK], work)
