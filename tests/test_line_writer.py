"""Log lines leave together and whole, and whoever reads them never holds up the work."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import select
import socket
import struct
import subprocess
import tempfile
import termios
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.common.line_writer import LIMIT_BYTES, PIPE_BUF, LineWriter, _write_if_ready
from tests.lab import plain
from tests.lab.forkserver import ForkedProcess
from tests.lab.lifeline import lifeline, tied
from tests.lab.ports import free_port

PIPE_BYTES = 1 << 16
"""What a pipe holds. Source: pipe(7)."""


def dropped(count: int) -> bytes:
    return b"dropped %d\n" % count


@pytest.fixture
def datagrams() -> Iterator[tuple[socket.socket, LineWriter]]:
    """A socket that receives each write of the writer as one message."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        writer = LineWriter(theirs.fileno(), dropped)
        yield ours, writer
        writer.close()


def writes(sock: socket.socket) -> list[bytes]:
    """What has been written so far, by write."""
    found = []
    while select.select([sock], [], [], 0)[0]:
        found.append(sock.recv(1 << 20))
    return found


def test_the_lines_of_a_turn_leave_in_one_write(datagrams: tuple[socket.socket, LineWriter]) -> None:
    """At the turn's end; an urgent one at once, behind those before it; without an event loop each at once."""
    sock, writer = datagrams

    async def work() -> None:
        for number in range(5):
            writer.add(b"%d\n" % number)
        assert writes(sock) == []
        await asyncio.sleep(0)
        assert writes(sock) == [b"0\n1\n2\n3\n4\n"]
        writer.add(b"a\n")
        writer.add(b"b\n", urgent=True)
        assert writes(sock) == [b"a\nb\n"]
        writer.add(b"last\n")

    asyncio.run(work())
    writer.add(b"behind\n")
    assert b"".join(writes(sock)) == b"last\nbehind\n"
    asyncio.run(work())  # another loop


def test_a_write_is_whole_lines_of_at_most_a_pipe_s_atomic_size(datagrams: tuple[socket.socket, LineWriter]) -> None:
    """So processes that share a pipe do not mix their lines. A line above that size has a write of its own."""
    sock, writer = datagrams
    lines = [b"x" * size + b"\n" for size in (1000, 3094, 2000, 5000, 10, 4095, 1)]

    async def work() -> None:
        for line in lines:
            writer.add(line)
        await asyncio.sleep(0)

    asyncio.run(work())
    found = writes(sock)
    assert b"".join(found) == b"".join(lines)
    assert all(each.endswith(b"\n") for each in found)
    assert [each for each in found if len(each) > PIPE_BUF] == [lines[3]]


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_does_not_read_holds_up_nothing(kind: str) -> None:
    """Its lines wait up to the limit; what is dropped is counted, and everything else arrives in order."""
    if kind == "pipe":
        read_fd, write_fd = os.pipe()
    else:
        pair = socket.socketpair()
        read_fd, write_fd = pair[0].detach(), pair[1].detach()
    writer = LineWriter(write_fd, dropped)
    count = 2 * LIMIT_BYTES // 100

    async def work() -> bytes:
        for number in range(count):
            writer.add(b"%098d.\n" % number)
        await asyncio.sleep(0)
        reading = asyncio.create_task(asyncio.to_thread(read_all, read_fd))
        while writer._lines:
            await asyncio.sleep(0.01)
        writer.add(b"end\n")
        await asyncio.sleep(0)
        writer.close()
        os.close(write_fd)
        return await reading

    text = asyncio.run(work()).decode()
    os.close(read_fd)
    numbers = [int(each) for each in re.findall(r"(?m)^(\d{98})\.$", text)]
    assert numbers == list(range(len(numbers)))
    assert text.endswith(f"dropped {count - len(numbers)}\nend\n")
    assert LIMIT_BYTES - 200 < 100 * len(numbers) < LIMIT_BYTES + 1000


def read_all(fd: int) -> bytes:
    """Everything until the end."""
    found = []
    while data := os.read(fd, 65536):
        found.append(data)
    return b"".join(found)


def test_the_descriptor_of_others_stays_as_it_is() -> None:
    """A shell whose terminal or pipe became non-blocking would fail itself."""
    read_fd, write_fd = os.pipe()
    writer = LineWriter(write_fd, dropped)
    writer.add(b"x\n")
    assert os.read(read_fd, 10) == b"x\n"
    assert not fcntl.fcntl(write_fd, fcntl.F_GETFL) & os.O_NONBLOCK
    writer.close()
    writer.add(b"discarded\n")
    os.close(read_fd)
    os.close(write_fd)


def test_a_descriptor_that_cannot_be_opened_again_is_asked_first() -> None:
    """A container's standard error may belong to another user."""
    read_fd, write_fd = os.pipe()
    poll = select.poll()
    poll.register(write_fd, select.POLLOUT)
    assert _write_if_ready(write_fd, poll, b"x" * 10_000) == PIPE_BUF
    while poll.poll(0):
        os.write(write_fd, b"x" * PIPE_BUF)
    with pytest.raises(BlockingIOError):
        _write_if_ready(write_fd, poll, b"x")
    os.close(read_fd)
    os.close(write_fd)


def test_threads_lose_no_line(datagrams: tuple[socket.socket, LineWriter]) -> None:
    """Four threads and the event loop at once."""
    sock, writer = datagrams
    found: list[bytes] = []
    ends = threading.Event()

    def reading() -> None:
        while not ends.is_set() or select.select([sock], [], [], 0)[0]:
            if select.select([sock], [], [], 0.05)[0]:
                found.append(sock.recv(65536))

    async def work() -> None:
        threads = [threading.Thread(target=add, args=(name,)) for name in b"abcd"]
        for thread in threads:
            thread.start()
        for _ in range(200):
            writer.add(b"e\n")
            await asyncio.sleep(0)
        for thread in threads:
            await asyncio.to_thread(thread.join)

    def add(name: int) -> None:
        for _ in range(200):
            writer.add(b"%c\n" % name)

    reader = threading.Thread(target=reading)
    reader.start()
    asyncio.run(work())
    writer.close()
    ends.set()
    reader.join()
    assert Counter(b"".join(found).splitlines()) == dict.fromkeys((b"a", b"b", b"c", b"d", b"e"), 200)


def test_a_gateway_whose_log_nobody_reads_serves() -> None:
    """Its standard error is a full pipe. When that is read, every line is there."""
    port, count, name = free_port(), 160, "x" * 400
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--port", str(port), "--data", str(Path(folder) / "data"), "--log-level", "info"]
        process: subprocess.Popen[bytes] = ForkedProcess(
            [*tied("gateway", "serve"), *flags], stdin=lifeline(), stderr=subprocess.PIPE, start_new_session=True
        )
        assert process.stderr is not None
        try:
            while b"ready" not in process.stderr.readline():
                pass
            with plain.client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                for number in range(count):
                    assert http.get(f"/queues/{number:d}{name}").status_code == 400
            assert _waiting_bytes(process.stderr.fileno()) > PIPE_BYTES * 3 // 4, "the pipe is not full"
            process.terminate()
            text = process.stderr.read().decode()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.stderr.close()
            process.wait(60)
    assert len(re.findall(r"INFO worker-0: request id=\w+ method=GET path=/queues/\d+x{400} status=400", text)) == count


def _waiting_bytes(fd: int) -> int:
    """How much a pipe holds."""
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
