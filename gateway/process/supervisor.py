"""`serve`: binds the port, starts the embedded broker and the workers, restarts them, and stops them in order.

Owns the signals, the listening socket, the lock of the data directory, and the counter of the queues' limits
(gateway.delivery.caps). Serves no request and connects to no Kestrel.

Order of the start: data directory, port, broker, workers. Order of the stop: workers, broker, the rest.

Workers stop together: all of them serve until no worker has a lease or the grace ends, because a settlement may arrive
at any worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any, Final

import gateway
from gateway.common import logs
from gateway.common.counted import counted
from gateway.common.standard_files import error_line
from gateway.config.cluster_secret import secrets_of
from gateway.config.keys import load
from gateway.config.toml_file import MistakesError
from gateway.delivery.caps.server import CapServer
from gateway.delivery.idempotency import ledger_file
from gateway.files import PRIVATE_UMASK
from gateway.process import descriptors, systemd
from gateway.process.child import Child
from gateway.process.datadir import DataDirectory, StartError, UnusableDataError, check_formats
from gateway.process.listening import address, listening
from gateway.process.start_message import StartMessage
from gateway.settings import Settings, SettingsError

log = logging.getLogger(__name__)

APP: Final = "gateway.app:create_app"
UNUSABLE: Final = 2
"""The exit code if another start would fail in the same way: systemd does not try (RestartPreventExitStatus)."""
# A worker that has not begun to drain by then is frozen; its leases are not waited for.
ANSWER_S: Final = 1.0
# The time that workers get after the grace, or after a second signal, before they are killed. With the default grace
# and a disk that is not slow, all have ended within docker stop's 10 s. Everything that was answered is on disk.
END_S: Final = 0.8
# Then the broker writes its log into its database. One that has not reacted since the signal is frozen.
BROKER_ANSWER_S: Final = 0.3
BROKER_END_S: Final = 5.0


def serve(settings: Settings, app: str = APP) -> int:
    """Serves until stopped. Returns the exit code: 0 stopped, 1 could not start, 2 could not start, and another start
    would fail in the same way. One line on stderr says why."""
    logs.set_up(settings.log_format, settings.log_level, "supervisor")
    os.umask(PRIVATE_UMASK)
    try:
        with contextlib.ExitStack() as stack:
            check_formats(settings.data, embedded=settings.is_embedded)
            data = DataDirectory(settings.data)
            stack.callback(data.close)
            try:
                listener = stack.enter_context(listening(settings))
            except StartError:
                data.discard()
                raise
            _prepare_keys(settings.data / ledger_file.NAME)
            return asyncio.run(Supervisor(settings, data, listener, app).run())
    except StartError as exc:
        error_line(f"kestrel-gateway: {exc}")
        return UNUSABLE if isinstance(exc, UnusableDataError) else 1


def _prepare_keys(path: Path) -> None:
    """Upgrades the file of idempotency keys, and logs its damages. Raises StartError."""
    try:
        lost = ledger_file.prepare(path)
    except ledger_file.UnknownFormatError as exc:
        raise UnusableDataError(f"data: {exc}") from exc
    except (sqlite3.Error, OSError) as exc:
        log.error("%s cannot be used: %s", path, ledger_file.explained(exc))  # noqa: TRY400
        return
    if lost is not None:
        log.error(lost)
    threading.Thread(target=_tell_damages, args=(path,), name="idempotency-check", daemon=True).start()


def _tell_damages(path: Path) -> None:
    """Reads the whole file, which may take a while, while the workers already use it."""
    try:
        for each in ledger_file.damages(path):
            log.error(each)
    except sqlite3.Error as exc:
        log.error("%s cannot be read: %s", path, ledger_file.explained(exc))  # noqa: TRY400


class Supervisor:
    """The parent of the broker and of the workers."""

    def __init__(self, settings: Settings, data: DataDirectory, listener: socket.socket, app: str) -> None:
        self._settings = settings
        self._stop_asked = asyncio.Event()
        self._stop_now = asyncio.Event()
        embedded = settings.is_embedded
        worker_socket = str(data.run_dir / "workers.sock") if embedded else ""
        self._broker = self._make_broker(data, worker_socket) if embedded else None
        kestrel = settings.kestrel if not embedded else (f"unix:{data.run_dir / 'broker.sock'}",)
        tenanted, secrets = _tenanted(settings), _cluster_secrets(settings)
        self._start_messages = [
            StartMessage(
                index,
                settings,
                kestrel,
                data.run_dir,
                data.lease_key,
                listener.fileno(),
                app,
                tenanted,
                secrets,
                worker_socket,
            )
            for index in range(settings.workers)
        ]
        self._workers = [self._make_worker(start, data) for start in self._start_messages]
        self._caps = CapServer(data.run_dir)
        self._listener = listener
        self._address = address(listener, "https" if settings.ssl_certfile else "http")
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Runs from the first child to the last. Returns the exit code."""
        self._own_signals()
        self._announce()
        for shortage in descriptors.prepare(self._settings, embedded=self._broker is not None):
            log.warning("descriptors: %s", shortage)
        await self._caps.start()
        started = await self._start([self._broker] if self._broker else []) and await self._start(self._workers)
        if started and not self._stop_asked.is_set():
            log.info("ready: %s", self._address)
            systemd.notify(os.environ, "READY=1")
            await _first_of(self._stop_asked.wait(), *self._tasks)
        systemd.notify(os.environ, "STOPPING=1")
        await self._stop()
        self._caps.close()
        if self._broker is not None and self._broker.unusable and not self._broker.ready.is_set():
            return UNUSABLE
        return 0 if started and self._stop_asked.is_set() else 1

    # Start

    async def _start(self, children: list[Child]) -> bool:
        """Starts them and waits until all are ready or a stop is requested. False if one could not start."""
        tasks = [asyncio.create_task(child.run(), name=child.name) for child in children]
        self._tasks += tasks
        await _first_of(self._stop_asked.wait(), _all_ready(children), *tasks)
        return self._stop_asked.is_set() or all(child.ready.is_set() for child in children)

    def _announce(self) -> None:
        settings = self._settings
        backend = (
            f"embedded broker in {settings.data}"
            if self._broker is not None
            else f"Kestrel at {', '.join([*settings.kestrel, *map(str, filter(None, [settings.kestrel_file]))])}"
        )
        log.info(
            "kestrel-gateway %s on %s, %s, %s",
            gateway.__version__,
            self._address,
            backend,
            counted(settings.workers, "worker"),
        )
        if settings.broker_listen and self._broker is not None:
            log.info("memcache clients are served on %s", settings.broker_listen)

    def _make_broker(self, data: DataDirectory, worker_socket: str) -> Child:
        settings = self._settings
        arguments = [
            "--listen",
            f"unix:{data.run_dir / 'broker.sock'}",
            "--worker-socket",
            worker_socket,
            "--data",
            str(data.path),
            "--fsync",
            settings.fsync,
        ]
        arguments += ["--log-format", settings.log_format, "--log-level", settings.log_level]
        if settings.no_auth:
            arguments += ["--no-auth"]
        if settings.broker_listen:
            arguments += ["--listen", settings.broker_listen]
        if settings.broker_config is not None:
            arguments += ["--config", str(settings.broker_config)]
        return Child(
            "broker",
            lambda fd: [sys.executable, "-P", "-m", "gateway.broker", *arguments, "--channel-fd", str(fd)],
            inherited=(data.children_lock_fd,),
        )

    def _make_worker(self, start: StartMessage, data: DataDirectory) -> Child:
        return Child(
            f"worker-{start.index}",
            lambda fd: [sys.executable, "-P", "-m", "gateway.process.worker", "--channel-fd", str(fd)],
            inherited=(start.listener_fd, data.children_lock_fd),
            first_message=start.message(),
        )

    # Signals

    def _own_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_stop_signal, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self._on_stop_signal, "SIGINT")
        loop.add_signal_handler(signal.SIGHUP, self._on_reload_signal)

    def _on_stop_signal(self, name: str) -> None:
        if not self._stop_asked.is_set():
            log.info("%s: draining, at most %g s; a second signal stops at once", name, self._settings.grace_s)
            self._stop_asked.set()
        elif not self._stop_now.is_set():
            log.info("%s again: stopping at once", name)
            self._stop_now.set()

    def _on_reload_signal(self) -> None:
        log.info("SIGHUP: reloading the workers")
        self._renew_secrets()
        for worker in self._workers:
            worker.tell("reload")

    def _renew_secrets(self) -> None:
        """Workers that start from now on get the new secrets, which the running workers read themselves."""
        with contextlib.suppress(SettingsError):  # the workers log the error
            secrets = secrets_of(self._settings)
            for worker, start in zip(self._workers, self._start_messages, strict=True):
                worker.first_message = dataclasses.replace(start, cluster_secrets=secrets).message()

    # Stop

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        grace_ends = loop.time() + self._settings.grace_s
        if self._broker is not None:
            self._broker.tell("drain")
        for worker in self._workers:
            worker.end("drain")
        workers = [task for task in self._tasks if task.get_name() != "broker"]
        if workers:
            await _first_of(self._drained(), self._stop_now.wait(), within_s=self._settings.grace_s)
            for worker in self._workers:
                worker.tell("finish")
                if not worker.draining.is_set() and not self._stop_now.is_set():
                    worker.kill()
            left_s = max(0.0, grace_ends - loop.time())
            await _first_of(self._ended(workers), self._stop_now.wait(), within_s=left_s + END_S)
            for worker in self._workers:
                worker.tell("stop")
            await _ended_or_killed(workers, self._workers, END_S if self._stop_now.is_set() else 0)
        if self._broker is not None:
            await self._end(self._broker)
        log.info("stopped")

    async def _end(self, broker: Child) -> None:
        """Returns when the broker is gone, in order or killed."""
        broker.end("stop")
        tasks = [task for task in self._tasks if task.get_name() == "broker"]
        await _first_of(broker.draining.wait(), *tasks, within_s=BROKER_ANSWER_S)
        if broker.draining.is_set():
            await _first_of(self._stop_now.wait(), *tasks, within_s=BROKER_END_S)
        await _ended_or_killed(tasks, [broker], END_S if self._stop_now.is_set() else 0)

    async def _ended(self, workers: list[asyncio.Task[None]]) -> None:
        """Returns when the workers are gone. Closes the listener once no worker accepts connections.

        They share the port: until it is closed here, the kernel still accepts connections that no process serves.
        """
        for worker in self._workers:
            await worker.closed.wait()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        await asyncio.wait(workers)

    async def _drained(self) -> None:
        """Returns when no worker has a lease. Does not wait for a worker that does not answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                for worker in self._workers:
                    await worker.draining.wait()
        for worker in self._workers:
            if worker.draining.is_set():
                await worker.drained.wait()


async def _all_ready(children: list[Child]) -> None:
    for child in children:
        await child.ready.wait()


async def _first_of(*waits: Any, within_s: float | None = None) -> None:
    """Returns when one of them is done, or when the time is over. Then cancels coroutines among them, but not tasks."""
    futures = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(futures, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    for wait, future in zip(waits, futures, strict=True):
        if wait is not future:
            future.cancel()


async def _ended_or_killed(tasks: list[asyncio.Task[None]], children: list[Child], within_s: float) -> None:
    """Waits until the children have ended; kills them after `within_s`."""
    if tasks:
        await asyncio.wait(tasks, timeout=within_s)
    for child in children:
        child.kill()
    await asyncio.gather(*tasks)


def _tenanted(settings: Settings) -> bool:
    """Whether keys have tenants; this holds until the gateway ends. Raises StartError if the file cannot be used."""
    if settings.keys is None:
        return False
    try:
        return bool(load(settings.keys).tenanted)
    except MistakesError as exc:
        raise StartError(str(exc)) from exc


def _cluster_secrets(settings: Settings) -> tuple[bytes, ...]:
    """Raises StartError if the file cannot be used."""
    try:
        return secrets_of(settings)
    except SettingsError as exc:
        raise StartError(str(exc)) from exc
