"""The channel between the supervisor and a child: a socket pair with lines of JSON. Owns the child's end.

The supervisor sends `{"command": "start" | "drain" | "finish" | "stop" | "reload"}`. The child sends `{"event":
"ready" | "unusable" | "draining" | "drained" | "closed"}`; `unusable`: it cannot start, and another start would fail in
the same way. The end of the stream means that the supervisor is dead, however it died.
The child then exits at once, from a separate thread: neither a busy event loop nor a long import keeps an orphan alive.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

Message = dict[str, Any]

# Signals that a terminal or a service manager sends to the whole process group. Only the supervisor acts on them.
GROUP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def encode(message: Message) -> bytes:
    """One line of the channel."""
    return json.dumps(message).encode() + b"\n"


def ignore_group_signals() -> None:
    """From here on only the channel ends this process. The supervisor starts its children with these signals blocked,
    so no signal can kill a child before this call."""
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)


class ChildChannel:
    """The child's end. Messages that arrive before `listen` wait."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._deliver: Callable[[Message], None] = self._waiting.put
        threading.Thread(target=self._read, name="lifeline", daemon=True).start()

    def first(self) -> Message:
        """The first message. Blocks until it arrives."""
        return self._waiting.get()

    def listen(self, loop: asyncio.AbstractEventLoop, on_message: Callable[[Message], None]) -> None:
        """Passes every further message to `on_message` on the loop."""

        def deliver(message: Message) -> None:
            loop.call_soon_threadsafe(on_message, message)

        with self._lock:
            while not self._waiting.empty():
                deliver(self._waiting.get())
            self._deliver = deliver

    def tell(self, message: Message) -> None:
        """Sends one short line to the supervisor. The reading thread notices if the supervisor is dead."""
        try:
            self._socket.sendall(encode(message))
        except OSError:
            return

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    message = json.loads(line)
                    with self._lock:
                        self._deliver(message)
        except (OSError, ValueError, RuntimeError):  # a reset, an incomplete line, or a loop that has just closed
            pass
        os._exit(1)  # the supervisor, which would read the exit code, is dead
