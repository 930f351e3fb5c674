"""Starts gateways and brokers by forking a process that has imported them already: a start takes 0.2 s of CPU, not 1 s.

    ForkedProcess.enabled = True
    process = ForkedProcess(tied("gateway", "serve"), stdin=lifeline())

What runs is the module or script that the command names, in a new process that is a child of the caller, with the
arguments, descriptors, environment, limits and signal mask that `subprocess.Popen` would give it. A supervisor that is
started like this starts its broker and its workers in the same way. Only the imports are not repeated.

A command that does not run a module or a script with this very Python is executed as usual, and so is every command as
long as `enabled` is false or CLONE does not know the machine. Tests of the start itself use `subprocess.Popen`.

How: the fork server is a child of the caller, and makes siblings of itself (clone(2), CLONE_PARENT), which are children
of the caller, too. A supervisor gets a fork server of its own, as a child whose command line is SERVER.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import inspect
import json
import os
import platform
import resource
import runpy
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, AnyStr, ClassVar, Final

from tests.lab.lifeline import end_with_the_tests

SERVER: Final = "tests.lab.forkserver"
ROOT: Final = Path(__file__).resolve().parents[2]
LIFELINE: Final = str(Path(__file__).with_name("lifeline.py"))
PRELOADED: Final = (
    "gateway.app",
    "gateway.cli",
    "gateway.http.server",
    "gateway.http.tls",
    "gateway.kestrel.discovery.members",
    "gateway.process.supervisor",
    "gateway.work.command",
    "gateway.work.endpoint",
    "gateway.work.worker",
    "anyio._backends._asyncio",
    "encodings.idna",
    "httpcore",
    "httpx",
    "uvloop",
)
PROGRAMS: Final = ("gateway.broker.__main__", "gateway.process.worker")
"""Their imports are preloaded. They themselves are not, because they run as `__main__`."""
GROUP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LIMITS: Final = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_DATA)
PARAMETERS: Final = tuple(inspect.signature(subprocess.Popen._execute_child).parameters)[1:]  # type: ignore[attr-defined] # not in the stubs
PIPES: Final = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
USUAL: Final = {
    "executable": None,
    "preexec_fn": None,
    "shell": False,
    "gid": None,
    "gids": None,
    "uid": None,
    "umask": -1,
    "process_group": -1,
}
"""A start that has something else here is not forked."""
ORDER_BYTES: Final = 1 << 17
ARGUMENT_BYTES: Final = 4096
CLONE: Final = {"aarch64": 220, "x86_64": 56}.get(platform.machine())  # Source: asm/unistd.h
CLONE_PARENT: Final = 0x8000  # Source: linux/sched.h


class ForkedProcess(subprocess.Popen[AnyStr]):
    """A `subprocess.Popen` whose process is forked, not executed, where that is possible and `enabled`."""

    enabled: ClassVar[bool] = False

    def _execute_child(self, *given: Any) -> None:
        asked: dict[str, Any] = dict(zip(PARAMETERS, given, strict=True))
        possible = self.enabled and CLONE is not None and USUAL.items() <= asked.items()
        order = _order(asked["args"]) if possible else None
        if order is None:
            super()._execute_child(*given)  # type: ignore[misc] # the stubs leave it out
            return
        order |= {
            "descriptors": [0, 1, 2, *asked["pass_fds"]],
            "directory": str(asked["cwd"] or Path.cwd()),
            "environment": dict(os.environ if asked["env"] is None else asked["env"]),
            "limits": [resource.getrlimit(each) for each in LIMITS],
            "mask": [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
            "session": asked["start_new_session"],
            "umask": umask(),
        }
        ends = [asked[each] for each in ("p2cread", "c2pwrite", "errwrite")]  # -1: the caller's own
        standard: list[int] = [own if end == -1 else end for own, end in enumerate(ends)]
        self.pid = ForkServer.of_this_process().fork(order, [*standard, *asked["pass_fds"]])
        self._child_created = True
        self._close_pipe_fds(*(asked[each] for each in PIPES))  # type: ignore[attr-defined] # as above


def _order(command: Any) -> dict[str, Any] | None:
    """What to run and its arguments, from a command of the lab or of a supervisor; None for another command."""
    command = [] if isinstance(command, str) else [*map(os.fspath, command)]
    if command[1:2] == ["-P"]:  # nobody here imports from the working directory
        del command[1]
    if len(command) < 2 or command[0] != sys.executable:
        return None
    first, *rest = command[1:]
    if first in (LIFELINE, "-m") and rest:
        return {"module": rest[0], "arguments": rest[1:], "lifeline": first == LIFELINE}
    if first.endswith(".py"):
        return {"script": first, "arguments": rest, "lifeline": False}
    return None


def umask() -> int:
    """Without changing it, as os.umask() does."""
    return int(Path("/proc/self/status").read_text().partition("\nUmask:")[2].split()[0], 8)


class ForkServer:
    """A fork server, which ends when this end of its connection does."""

    _of_this_process: ClassVar[ForkServer | None] = None

    def __init__(self, connection: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        self._connection = connection
        self._process = process
        self._one_at_a_time = threading.Lock()

    @classmethod
    def of_this_process(cls) -> ForkServer:
        """Started when it is first needed."""
        if cls._of_this_process is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-m", SERVER, str(theirs.fileno()), " " * ARGUMENT_BYTES],
                    cwd=ROOT,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            cls._of_this_process = cls(ours, process)
        return cls._of_this_process

    @classmethod
    def use(cls, connection: socket.socket) -> None:
        """From now on this process uses the server at the other end."""
        cls._of_this_process = cls(connection)

    def fork(self, order: Mapping[str, Any], descriptors: list[int]) -> int:
        """Starts a process, which is a child of this one. Returns its pid."""
        with self._one_at_a_time:
            socket.send_fds(self._connection, [json.dumps(order).encode()], descriptors)
            return int(self._connection.recv(20))


# The server


def _serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Forks a process for each order, and returns only there: the order, and the descriptors that came with it."""
    gc.collect()
    gc.freeze()
    while True:
        content, descriptors, _, _ = socket.recv_fds(connection, ORDER_BYTES, 64)
        if not content:
            os._exit(0)
        pid = _fork_sibling()
        if pid == 0:
            connection.close()
            return json.loads(content), descriptors
        connection.send(b"%d" % pid)
        for each in descriptors:
            os.close(each)


def _fork_sibling() -> int:
    """Like os.fork(), but the new process is a child of this one's parent. This one has a single thread."""
    python = ctypes.PyDLL(None, use_errno=True)
    python.PyOS_BeforeFork()
    pid: int = python.syscall(CLONE, CLONE_PARENT, 0, 0, 0, 0)
    error = ctypes.get_errno()
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    python.PyOS_AfterFork_Parent()
    if pid == -1:
        raise OSError(error, "clone")
    return pid


def _become(order: Mapping[str, Any], descriptors: list[int]) -> None:
    """Gives this process what the order says, and takes from it what the server had."""
    if order["session"]:
        os.setsid()
    wanted = order["descriptors"]
    lowest = max(*wanted, *descriptors) + 1
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD, lowest) for each in descriptors]
    for target, each in zip(wanted, moved, strict=True):
        os.dup2(each, target)
    _keep(wanted)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w")):  # the server's know whether other files can seek
        setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for kind, limit in zip(LIMITS, order["limits"], strict=True):
        resource.setrlimit(kind, limit)
    os.umask(order["umask"])
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[:0] = [each for each in os.environ.get("PYTHONPATH", "").split(":") if each]
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, order["mask"])


def _keep(wanted: list[int]) -> None:
    """Closes all other descriptors."""
    at = 0
    for each in [*sorted(wanted), 1 << 16]:
        if at < each:  # closerange(0, 0) closes everything
            os.closerange(at, each)
        at = each + 1


def _start_server() -> tuple[dict[str, Any], list[int]] | None:
    """Forks a server for the children of this process. Returns, also in each of them, what `_serve` returns there."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if server := os.fork():
        theirs.close()
        ForkServer.use(ours)
        atexit.register(_end_server, ours, server)
        ForkedProcess.enabled = True
        subprocess.Popen = ForkedProcess  # type: ignore[misc]
        return None
    ours.close()
    null = os.open(os.devnull, os.O_RDWR)
    for each in range(3):
        os.dup2(null, each)
    _keep([0, 1, 2, theirs.fileno()])
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return _serve(theirs)


def _end_server(connection: socket.socket, pid: int) -> None:
    """A supervisor that ends in order leaves no process, not even this one for a moment."""
    connection.close()
    os.waitpid(pid, 0)


def _show(command: list[str]) -> None:
    """Makes this the command line of the process in /proc. What it was at the start is long enough."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    text = os.fsencode("".join(f"{each}\0" for each in command))[: end - start]
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(text.ljust(end - start, b"\0"))


def _run_module(name: str, arguments: list[str]) -> None:
    _show([sys.executable, "-P", "-m", name, *arguments])
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_script(path: str, arguments: list[str]) -> None:
    """A script imports from its own folder, whose modules may have the names of ours."""
    _show([sys.executable, path, *arguments])
    sys.argv = [path, *arguments]
    sys.path[:] = [str(Path(path).parent), *(each for each in sys.path if Path(each) != ROOT)]
    for name in [each for each in sys.modules if each.partition(".")[0] == "gateway"]:
        del sys.modules[name]
    runpy.run_path(path, run_name="__main__")


def _warm_up() -> None:
    """Makes an application, which compiles patterns that Python keeps: half of what the start of a worker takes."""
    from gateway.app import WorkerContext, create_app
    from gateway.settings import Settings

    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # a process' first one starts OpenSSL: 30 ms, for plain httpx clients, too
    create_app(Settings(), WorkerContext(0, "0" * 16, ROOT, bytes(32), ("127.0.0.1:1",), tenanted=False))


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    for name in (*PRELOADED, *PROGRAMS):
        importlib.import_module(name)
    for name in PROGRAMS:
        del sys.modules[name]
    _warm_up()
    _show([SERVER])
    order, descriptors = _serve(connection)
    _become(order, descriptors)
    if [order.get("module"), *order["arguments"][:1]] == ["gateway", "serve"] and (
        theirs := _start_server()
    ) is not None:
        order, descriptors = theirs
        _become(order, descriptors)
    if order["lifeline"]:
        end_with_the_tests()
    code: Any = None
    try:
        if "script" in order:
            _run_script(order["script"], order["arguments"])
        else:
            _run_module(order["module"], order["arguments"])
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    if code is None or isinstance(code, int):
        _end(code or 0)
    sys.exit(code)


def _end(code: int) -> None:
    """Ends this process as the interpreter would, but leaves its objects as they are: to delete them all takes 60 ms of
    CPU, because it writes to every page that is shared with the server. Returns if the output cannot be written.
    """
    threading._shutdown()  # type: ignore[attr-defined] # not in the stubs
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
