"""Clients whose host has gone without a word: the kernel finds them, and what they waited for is over."""

from __future__ import annotations

import asyncio
import ctypes
import re
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.lab.examples import some
from tests.lab.gateway import running
from tests.lab.waiting import until
from tests.process.serving import Server, serving

SO_ATTACH_FILTER = 26  # Source: Linux include/uapi/asm-generic/socket.h


def cut_off(sock: socket.socket) -> None:
    """From now on the socket's kernel drops all that comes for it, unacknowledged, as a dead host would."""
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(nothing)))


@pytest.mark.parametrize("path", [b"/park", b"/park_plain"])
def test_a_parked_client_that_is_cut_off_is_found(path: bytes) -> None:
    """Unanswered keep-alive probes end the poll, in two seconds where one is the setting."""

    async def test(server: Server) -> None:
        with socket.create_connection(server.address) as client:
            client.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            await server.counted("parked", 1)
            cut_off(client)
            began = time.monotonic()
            await server.counted("gone", 1)
            assert 0.9 < time.monotonic() - began < 20, "the defaults take 60 s"

    serving(test, tcp_keepalive_s=1.0, tcp_user_timeout_s=1.0)


def test_a_client_that_answers_probes_stays() -> None:
    """Silence alone ends nothing."""

    async def test(server: Server) -> None:
        with socket.create_connection(server.address) as client:
            client.sendall(b"GET /park HTTP/1.1\r\nHost: a\r\n\r\n")
            await server.counted("parked", 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):
                    await server.counted("gone", 1)
            server.app.begin_drain()
            await server.counted("reached", 1)

    serving(test, tcp_keepalive_s=1.0, tcp_user_timeout_s=1.0)


def test_a_client_that_reads_nothing_is_given_up() -> None:
    """A response that does not fit the kernel's buffers ends when its reader has not moved for the user time-out."""

    async def test(server: Server) -> None:
        with socket.create_connection(server.address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = b"x" * (8 << 20)
            head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            await asyncio.get_running_loop().run_in_executor(None, client.sendall, head + body)
            began = time.monotonic()
            while not server.server.server_state.connections:
                await asyncio.sleep(0.001)
            async with asyncio.timeout(20):
                await server.server.server_state.all_closed()
            assert time.monotonic() - began > 0.5

    serving(test, tcp_user_timeout_s=1.0)


@pytest.mark.parametrize("workers", some(["2", "1"]))
def test_a_cut_off_consumer_costs_no_job(tmp_path: Path, workers: str) -> None:
    """Ten polls of a host that died take no job: once that is noticed, jobs go to the other polls."""
    flags = ("--workers", workers, "--tcp-keepalive", "1", "--tcp-user-timeout", "1")
    with running(tmp_path / "data", *flags) as gateway, gateway.client() as http:
        polls = [gateway.connect() for _ in range(10)]
        for poll in polls:
            poll.sendall(b"GET /queues/q/next?timeout=45 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(5):
            assert gateway.ready()
        for poll in polls:
            cut_off(poll)
        until(
            lambda: len(re.findall("code=client-gone|status=204", gateway.log.read_text())) >= 10,
            gateway.log.read_text,
            within_s=40,
        )
        for number in range(10):
            http.post("/queues/q/jobs", json=number)
            answer = http.get("/queues/q/next?timeout=5")
            assert (answer.json()["data"], answer.json()["attempt"]) == (number, 1)
            http.post(answer.json()["lease"]["url"] + "/ack")
