"""Runs test files in several processes that are forked from the one that has collected the tests.

    python -m pytest -p tests.parallel --workers 4

Each process takes the next file, and the next one when it has finished with it. Tests marked `alone` run after all
others, one file at a time. Reports go to the first process, which prints them and counts the failures.

pytest-xdist does the same, but each of its processes collects all tests: with 4 of them that takes 26 s of CPU, not 7,
which is 10 s of the 4 minutes that `make test` may take on two cores. It has no `alone` either. `make coverage` uses
it, because a forked process does not measure itself.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import random
import struct
import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from multiprocessing.connection import Connection, wait
from typing import Any, Final

import pytest

FORKED: Final = multiprocessing.get_context("fork")
COLLECTED_OBJECTS: Final = 20_000
"""A collection of garbage for so many new objects: at the usual 700 they take 4 % of the tests' CPU."""
NUMBER: Final = struct.Struct("<H")
"""The number of a file in the queue of files, a pipe. It holds 65,536 bytes, and a read of 2 bytes takes one number.
Source: pipe(7)."""
END_S: Final = 30.0
"""For a worker that has been stopped, and ends the fixtures of its test."""

Files = Sequence[Sequence[pytest.Item]]

gc.disable()  # while tests are collected, which makes no garbage: a fifth of that time


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workers", type=int, default=0, metavar="N", help="run the tests in N forked processes; 0: in this"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Replaces pytest's own loop."""
    gc.enable()
    workers = session.config.option.workers
    if not workers or session.config.option.collectonly or session.testsfailed:
        return None
    if (terminal := session.config.pluginmanager.getplugin("terminalreporter")) is not None:
        terminal.showfspath = False  # the files take turns
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined] # it empties the folder, once
    gc.collect()
    gc.freeze()  # no collection copies the pages of what all share
    alone = [item for item in session.items if item.get_closest_marker("alone")]
    together = [item for item in session.items if not item.get_closest_marker("alone")]
    for items, count in ((together, workers), (alone, 1)):
        files = [list(each) for _, each in groupby(items, key=lambda item: item.path)]
        if files and not session.shouldstop and not session.shouldfail:
            _run(session, files, min(count, len(files)))
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


# The process that has collected the tests


class Worker:
    """One forked process. current: the test that it runs."""

    current: tuple[str, Any] | None = None

    def __init__(self, session: pytest.Session, number: int, files: Files, queue: int) -> None:
        self.connection, theirs = FORKED.Pipe()
        self.process = FORKED.Process(target=_work, args=(session, number, files, queue, theirs))
        self.process.start()
        theirs.close()


def _run(session: pytest.Session, files: Files, count: int) -> None:
    """Returns when all files are done, or the session is to stop."""
    queue, numbers = os.pipe()
    os.write(numbers, b"".join(map(NUMBER.pack, range(len(files)))))
    os.close(numbers)
    workers = {worker.connection: worker for worker in (Worker(session, each, files, queue) for each in range(count))}
    os.close(queue)
    stopping = False
    try:
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                try:
                    _receive(session, workers[connection], *connection.recv())
                except (EOFError, ConnectionResetError):
                    _ended(session, workers.pop(connection))
            if (session.shouldfail or session.shouldstop) and not stopping:
                stopping = True
                for connection in workers:
                    with contextlib.suppress(OSError):  # it has ended
                        connection.send("stop")
    finally:
        for connection in workers:  # without it they end, if they have not yet
            connection.close()
        for worker in workers.values():
            worker.process.join(END_S)
            worker.process.kill()


def _receive(session: pytest.Session, worker: Worker, kind: str, content: Any) -> None:
    hook = session.config.hook
    match kind:
        case "start":
            worker.current = content
            hook.pytest_runtest_logstart(nodeid=content[0], location=content[1])
        case "reports":
            assert worker.current is not None
            nodeid, location = worker.current
            for data in content:
                report = hook.pytest_report_from_serializable(config=session.config, data=data)
                hook.pytest_runtest_logreport(report=report)
            hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
            worker.current = None
        case "warning":
            hook.pytest_warning_recorded.call_historic(kwargs=content)


def _ended(session: pytest.Session, worker: Worker) -> None:
    """A worker that ends before its files do is a failure of the test that it ran."""
    worker.process.join()
    if worker.process.exitcode == 0:
        return
    nodeid, location = worker.current or ("tests", ("tests", None, "between two tests"))
    why = f"the worker ended with {worker.process.exitcode}; the rest of the file did not run"
    report = pytest.TestReport(nodeid, location, {}, "failed", why, "call")
    session.config.hook.pytest_runtest_logreport(report=report)


# A worker


class Reporter:
    """Sends to the first process what its own plugins are to know: one message when a test starts, one when it ends."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config = config
        self._connection = connection
        self._reports: list[Any] = []

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._connection.send(("start", (nodeid, location)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_runtest_logfinish(self) -> None:
        self._connection.send(("reports", self._reports))
        self._reports = []

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: Any
    ) -> None:
        warning_message.source = None  # it may be anything
        content = {"warning_message": warning_message, "when": when, "nodeid": nodeid, "location": location}
        self._connection.send(("warning", content))


def _work(session: pytest.Session, number: int, files: Files, queue: int, connection: Connection) -> None:
    """Runs files until the queue has none."""
    config, parent = session.config, os.getppid()
    _become(config, number)
    config.pluginmanager.register(Reporter(config, connection))
    items = _items(files, queue)
    item = next(items, None)
    try:
        while item is not None and not connection.poll() and not session.shouldfail and os.getppid() == parent:
            following = next(items, None)
            config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            item = following
    finally:
        session._setupstate.teardown_exact(None)


def _items(files: Files, queue: int) -> Iterator[pytest.Item]:
    while content := os.read(queue, NUMBER.size):
        yield from files[NUMBER.unpack(content)[0]]


def _become(config: pytest.Config, number: int) -> None:
    """Makes this process one of several: with output, temporary files and random numbers of its own."""
    plugins: Any = config.pluginmanager
    capture = plugins.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    plugins.unregister(name="terminalreporter")
    factory = config._tmp_path_factory  # type: ignore[attr-defined] # pytest has no other way to set it
    factory._basetemp = factory.getbasetemp() / f"w{number}"
    factory._basetemp.mkdir(mode=0o700, exist_ok=True)
    random.seed()
    gc.set_threshold(COLLECTED_OBJECTS)
