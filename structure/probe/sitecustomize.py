"""Counts the calls of functions in this process. Python imports it at the start of every process of the traced gateway.

Commands come over a Unix socket in STRUCTURE_PROBE_DIR, one line each: `begin` clears the record, `read` answers it as
one line of JSON: `[[file, function, file of the caller], ...]` in the order of the calls. Files are relative to
STRUCTURE_PROBE_ROOT; only functions below it count. The caller's file is null where the event loop called.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = os.environ["STRUCTURE_PROBE_ROOT"] + "/"
DIRECTORY = Path(os.environ["STRUCTURE_PROBE_DIR"])
LOOPS = ("/asyncio/", "/uvloop/", "/threading.py", "/concurrent/")

record: list[tuple[str, str, str | None]] = []


def profile(frame: FrameType, event: str, _argument: Any) -> None:
    """Notes one call. A coroutine that goes on after an await is not called again."""
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(ROOT):
        return
    # The RESUME instruction's lowest two bits are 0 at a function's start, and not 0 after a yield or an await.
    if (code.co_name.startswith("<") and code.co_name != "<lambda>") or code.co_code[frame.f_lasti + 1] & 3:
        return
    record.append((code.co_filename.removeprefix(ROOT), code.co_qualname, caller(frame)))


def caller(frame: FrameType) -> str | None:
    """The file of the nearest function of ours that led here; None where the event loop is nearer."""
    above = frame.f_back
    while above is not None:
        name = above.f_code.co_filename
        if name.startswith(ROOT):
            return name.removeprefix(ROOT)
        if any(part in name for part in LOOPS):
            return None
        above = above.f_back
    return None


def obey(listener: socket.socket) -> None:
    """Carries out the commands of one connection after the other."""
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                if line == b"begin\n":
                    record.clear()
                    stream.write(b"\n")
                else:
                    stream.write(json.dumps(record.copy()).encode() + b"\n")
                stream.flush()


def start() -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(DIRECTORY / f"{os.getpid()}.sock"))
    listener.listen()
    threading.Thread(target=obey, args=(listener,), daemon=True).start()
    threading.setprofile(profile)
    sys.setprofile(profile)


start()
