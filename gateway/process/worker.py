"""One worker process: the application on the inherited socket, from its start message to the end of its drain.

It obeys only the channel: it ignores signals to the group, and exits when the channel closes. The supervisor runs it
as `python -m gateway.process.worker --channel-fd N`.

Order of a drain: the application answers its waiting polls, serves until no lease is left here, and reports that. On
`finish` (no worker has a lease, or the grace is over) the listener closes and requests in progress are answered in the
rest of the grace. Then connections close, the application shuts down, and the exit code is 0. `stop` ends all waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import logging
import os
import secrets
import socket
import sys
import time
from typing import Any, Protocol, cast

from gateway.common import logs
from gateway.common.allocator import return_free_memory, return_large_blocks
from gateway.common.channel import ChildChannel, Message, ignore_group_signals
from gateway.common.shares import Shares
from gateway.fairness.loop_time import LoopTime
from gateway.process.start_message import StartMessage

log = logging.getLogger(__name__)

_GC_THRESHOLDS = 2_000, 1, 500
"""Requests, connections and polls leave no reference cycles (tests/hold/test_cycles.py), and a collection every 700
objects costs several percent of their time. 32 requests that begin in one turn of the loop have more than 1,000
objects: with that threshold, collections take 20 us a request, with 2,000 they take 6 us.

A collection holds the loop for about 1 ms a thousand objects. So there are few objects in the first two generations,
and a full collection, of all waiting polls and open connections, is rare.
"""


class Application(Protocol):
    """What a worker needs from the application, in addition to ASGI with lifespan. buffers: memory of its requests.

    loop_time: what its tenants use of the event loop.
    """

    buffers: Shares
    loop_time: LoopTime

    def begin_drain(self) -> None:
        """The application is no longer ready: it answers waiting polls and gives no new lease."""

    async def drained(self) -> None:
        """Returns when no lease is left."""

    async def reload(self) -> None:
        """Reads again the files that may change at run time. Mistakes are logged and change nothing."""


def main() -> int:
    """Runs one worker. Returns its exit code: 0 ended on command, 1 could not start."""
    ignore_group_signals()
    return_large_blocks()
    gc.disable()  # until it serves: collections take an eighth of the time of its imports, and find nothing
    parser = argparse.ArgumentParser(prog="gateway.process.worker")
    parser.add_argument("--channel-fd", type=int, required=True)
    channel = ChildChannel(parser.parse_args().channel_fd)
    start = StartMessage.of(channel.first())
    logs.set_up(start.settings.log_format, start.settings.log_level, f"worker-{start.index}")
    import uvloop  # noqa: PLC0415 (the channel must be watched first)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(start, channel))


async def serve(start: StartMessage, channel: ChildChannel) -> int:
    """Serves until the channel says `finish` or `stop`."""
    from gateway.http.server import ApplicationStartError, GatewayServer  # noqa: PLC0415 (see main)

    try:
        application = make_application(start)
    except Exception:
        log.exception("the application cannot be created")
        return 1
    server = GatewayServer(application, start.settings, application.buffers, application.loop_time)
    try:
        await server.start(socket.socket(fileno=start.listener_fd))
    except ApplicationStartError:
        return 1
    drain, finish, stop, reload = (asyncio.Event() for _ in range(4))
    events = {"drain": (drain,), "finish": (drain, finish), "stop": (drain, finish, stop), "reload": (reload,)}

    def on_message(message: Message) -> None:
        for event in events.get(message.get("command", ""), ()):
            event.set()

    channel.listen(asyncio.get_running_loop(), on_message)
    _spare_the_collector()
    returning = asyncio.create_task(return_free_memory(), name="return of free memory")
    channel.tell({"event": "ready", "pid": os.getpid()})
    await _first(drain.wait(), _reload_each_time(application, reload))
    grace_ends = time.monotonic() + start.settings.grace_s
    channel.tell({"event": "draining"})
    server.begin_drain()
    application.begin_drain()
    await _first(application.drained(), finish.wait())
    channel.tell({"event": "drained"})
    await finish.wait()
    server.close_listener()
    channel.tell({"event": "closed"})
    await _first(server.answered(max(0.0, grace_ends - time.monotonic())), stop.wait())
    await server.stop()
    returning.cancel()
    return 0


def _spare_the_collector() -> None:
    """Starts garbage collection, less frequent than by default and without the objects that exist now."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(*_GC_THRESHOLDS)


def make_application(start: StartMessage) -> Application:
    """The application from the factory that the start message names, with this process's context."""
    module_name, _, factory = start.app.partition(":")
    module = importlib.import_module(module_name)
    context = module.WorkerContext(
        index=start.index,
        boot_id=secrets.token_hex(8),
        run_dir=start.run_dir,
        lease_key=start.lease_key,
        kestrel=start.kestrel,
        tenanted=start.tenanted,
        cluster_secrets=start.cluster_secrets,
        worker_socket=start.worker_socket,
    )
    return cast("Application", getattr(module, factory)(start.settings, context))


async def _reload_each_time(application: Application, asked: asyncio.Event) -> None:
    """Runs one reload after the other. Requests during a reload cause one more reload after it."""
    while True:
        await asked.wait()
        asked.clear()
        try:
            await application.reload()
        except Exception:
            log.exception("reload: failed; the previous content stays in use")
        else:
            log.info("reload: ended")


async def _first(*waits: Any) -> None:
    """Returns when the first of them has finished; cancels the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


if __name__ == "__main__":
    sys.exit(main())
