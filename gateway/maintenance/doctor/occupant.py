"""Who uses a data directory or a port of this machine. Takes no lock that a start of the gateway could meet."""

from __future__ import annotations

import contextlib
import fcntl
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LISTENING: Final = "0A"
"""Source: Linux, TCP_LISTEN of include/net/tcp_states.h, as /proc/net/tcp shows it."""


@dataclass(frozen=True, slots=True)
class Occupant:
    """A process. pid: 0 if it is not known."""

    pid: int
    program: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        return f"{self.program or 'another process'} (pid {self.pid})"


def of_directory(data: Path) -> Occupant | None:
    """The gateway that uses the data directory; None if none does. Raises OSError.

    It tries the lock for which a start waits, so a gateway that starts at this moment does not fail.
    """
    try:
        with (data / "run.lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = (data / "lock").read_text("ascii").strip()
                return Occupant(int(pid) if pid.isdigit() else 0, "kestrel-gateway")
    except FileNotFoundError:
        pass
    return None


def of_port(host: str, port: int) -> Occupant:
    """The process that listens on the port. Where the system does not tell, its pid is 0. Source: proc(5)."""
    inodes = {f"socket:[{inode}]" for inode in _listening(host, port)}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(each.readlink()) in inodes for each in (directory / "fd").iterdir()):
                return Occupant(int(directory.name), _program(directory))
    return Occupant(0)


def parent_of(pid: int) -> int:
    """The pid of the parent; 0 if it is not known."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _listening(host: str, port: int) -> list[str]:
    """The inodes of the sockets that listen on the port of the address or of all addresses."""
    found = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].partition(":")
                if fields[3] == _LISTENING and int(number, 16) == port and _covers(address, host):
                    found.append(fields[9])
    return found


def _covers(hexadecimal: str, host: str) -> bool:
    """Whether a listener on that address of /proc/net/tcp leaves no room for one on `host`."""
    if not hexadecimal.strip("0") or host in {"0.0.0.0", "::", ""}:  # noqa: S104 (compares)
        return True
    words = [int(hexadecimal[start : start + 8], 16) for start in range(0, len(hexadecimal), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    with contextlib.suppress(OSError):
        addresses = {each[4][0] for each in socket.getaddrinfo(host.strip("[]"), None)}
        return socket.inet_ntop(family, packed).removeprefix("::ffff:") in addresses
    return False


def _program(directory: Path) -> str:
    """The name of the program; `kestrel-gateway` for this one, whose program is Python."""
    arguments = (directory / "cmdline").read_bytes().split(b"\0")
    if any(re.fullmatch(rb"gateway(\..+)?|.*kestrel-gateway", each) for each in arguments):
        return "kestrel-gateway"
    return (directory / "comm").read_text().strip()
