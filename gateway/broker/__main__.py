"""The command `broker`: flags, signals, and the parent's channel if it runs as a child.

`check` and `compact` are in check/command.py.

With `--channel-fd` the broker is a child: one line of JSON tells the parent that it is ready, or that another start
would fail in the same way because of a file. `{"command": "stop"}` stops it in order, and the end of the channel means
that the parent is dead. Then the process exits at once, because everything that was answered is on disk. A child
ignores SIGINT, SIGTERM and SIGHUP. Without a parent SIGINT and SIGTERM stop the broker in order, and SIGHUP reloads.

Exit codes: 0 stopped on request, 1 could not start (one line says why), 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from pathlib import Path

import click

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

from gateway.broker.broker import Broker, Options
from gateway.broker.config import ConfigError
from gateway.broker.listening import AddressError, ListenAddress, parse_address
from gateway.broker.server import BrokerServer
from gateway.broker.storage.reader import DatabaseError, UnusableFileError
from gateway.common import logs, standard_files
from gateway.common.allocator import return_large_blocks
from gateway.common.channel import ChildChannel, Message, ignore_group_signals
from gateway.common.counted import counted
from gateway.common.flags import HELP, usage_mistake
from gateway.common.locks import KILLED_WAIT_S
from gateway.common.net import is_loopback

log = logging.getLogger("gateway.broker")

_CHILD_LOCK_WAIT_S = 3.0
"""As KILLED_WAIT_S for the broker of a gateway, which ends only after it has noticed that its supervisor was killed."""
_SWITCH_INTERVAL_S = 0.001
"""The longest time that the writer's thread waits for the interpreter while the loop is busy; Python's default is 5
ms."""
_GC_THRESHOLDS = 5_000, 2, 100
"""Items and answers have no reference cycles: a collection every 700 objects, or of many at once, only adds latency."""


class _AddressType(click.ParamType[ListenAddress]):
    name = "ADDR"

    def convert(
        self, value: str | ListenAddress, param: click.Parameter | None, ctx: click.Context | None
    ) -> ListenAddress:
        if isinstance(value, ListenAddress):
            return value
        try:
            return parse_address(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


def _variable(name: str) -> str:
    return f"KESTREL_GATEWAY_BROKER_{name}"


@click.command(context_settings=HELP)
@click.option(
    "--listen",
    "addresses",
    type=_AddressType(),
    multiple=True,
    required=True,
    envvar=_variable("LISTEN"),
    help="HOST:PORT (port 0 picks one), [v6]:PORT or unix:PATH; repeatable",
)
@click.option(
    "--worker-socket",
    default="",
    metavar="PATH",
    envvar=_variable("WORKER_SOCKET"),
    hidden=True,
    help="Unix socket for the workers of kestrel-gateway, which speak the multiplexed protocol",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    envvar=_variable("DATA"),
    help="directory of the queues; created if it is missing",
)
@click.option(
    "--config", type=click.Path(path_type=Path), envvar=_variable("CONFIG"), help="TOML file with the queues' limits"
)
@click.option(
    "--fsync",
    type=click.Choice(["always", "off"]),
    default="always",
    show_default=True,
    envvar=_variable("FSYNC"),
    help="always: an answered set survives a power cut; off: it survives only a killed process",
)
@click.option(
    "--max-open-reads",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    envvar=_variable("MAX_OPEN_READS"),
    help="maximum number of open reads per queue and connection",
)
@click.option(
    "--max-item-bytes",
    type=click.IntRange(1, 512 << 20),
    default=64 << 20,
    show_default=True,
    envvar=_variable("MAX_ITEM_BYTES"),
    help="largest item of any queue",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1, 1_000_000),
    default=16384,
    show_default=True,
    envvar=_variable("MAX_CONNECTIONS"),
    help="maximum number of TCP connections; at the limit, the oldest one without a command is closed for a new one",
)
@click.option(
    "--max-buffered-bytes",
    type=click.IntRange(1, 1 << 40),
    default=128 << 20,
    show_default=True,
    envvar=_variable("MAX_BUFFERED_BYTES"),
    help="memory for incomplete items and unread answers of all TCP connections; at least --max-item-bytes",
)
@click.option(
    "--no-auth",
    is_flag=True,
    envvar=_variable("NO_AUTH"),
    help="allow a non-loopback address: the memcache protocol has no authentication",
)
@click.option(
    "--channel-fd",
    type=int,
    envvar=_variable("CHANNEL_FD"),
    hidden=True,
    help="descriptor of the parent's channel",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar=_variable("LOG_FORMAT"),
    help="format of the log lines on standard error",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar=_variable("LOG_LEVEL"),
    help="lowest level that is logged",
)
def broker(
    *,
    addresses: tuple[ListenAddress, ...],
    worker_socket: str,
    data: Path,
    config: Path | None,
    fsync: str,
    max_open_reads: int,
    max_item_bytes: int,
    max_connections: int,
    max_buffered_bytes: int,
    no_auth: bool,
    channel_fd: int | None,
    log_format: str,
    log_level: str,
) -> None:
    """Serve the Kestrel memcache protocol from a data directory.

    `kestrel-gateway broker check DIR` finds damage in the data directory DIR, and `kestrel-gateway broker compact DIR`
    gives disk space back. Both need a stopped broker.
    """
    exposed = next((address for address in addresses if not (address.path or is_loopback(address.host))), None)
    if exposed is not None and not no_auth:
        raise click.UsageError(
            f"--listen: {exposed} is not a loopback address and the memcache protocol has no authentication; "
            "give --no-auth if every host that reaches the address may use the broker"
        )
    if max_buffered_bytes < max_item_bytes:
        raise click.UsageError(
            f"--max-buffered-bytes: {max_buffered_bytes} is below --max-item-bytes ({max_item_bytes}); "
            "an item of that size could not be sent; raise the first or lower the second"
        )
    logs.set_up(log_format, log_level, "broker")
    channel = None
    if channel_fd is not None:
        ignore_group_signals()
        channel = ChildChannel(channel_fd)
    return_large_blocks()
    os.umask(0o077)  # only the user who runs the broker may read its files
    options = Options(
        data=data,
        config=config,
        fsync=fsync == "always",
        max_open_reads=max_open_reads,
        max_item_bytes=max_item_bytes,
        max_connections=max_connections,
        max_buffered_bytes=max_buffered_bytes,
        lock_wait_s=_CHILD_LOCK_WAIT_S if channel_fd is not None else KILLED_WAIT_S,
    )
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.set_threshold(*_GC_THRESHOLDS)
    _raise_descriptor_limit()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(options, list(addresses), worker_socket, channel))
    except (AddressError, ConfigError, DatabaseError) as exc:
        if channel is not None and isinstance(exc, ConfigError | UnusableFileError):
            channel.tell({"event": "unusable"})
        standard_files.error_line(f"kestrel-gateway broker: {exc}")
        sys.exit(1)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    return None if uvloop is None else uvloop.Loop


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(
    options: Options, addresses: list[ListenAddress], worker_socket: str, channel: ChildChannel | None
) -> None:
    loop = asyncio.get_running_loop()
    made = Broker(options, loop)
    server = BrokerServer(made, addresses, worker_socket)
    try:
        if channel is None:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, server.stopping.set)
            loop.add_signal_handler(signal.SIGHUP, made.reload)
        else:
            channel.listen(loop, lambda message: _obey(server, channel, message))
        found = await server.start()
        fsync = "always" if options.fsync else "off"
        log.info("%s in %s, fsync %s", counted(len(made.queues), "queue"), options.data, fsync)
        log.info("listening on %s", ", ".join(found))
        if channel is not None:
            channel.tell({"event": "ready", "listen": found})
        await server.stopping.wait()
        log.info("stopping")
    finally:
        await server.stop()


def _obey(server: BrokerServer, channel: ChildChannel, message: Message) -> None:
    """A `drain` is only answered, which shows that this process is alive: the workers still need its queues."""
    if message.get("command") == "drain":
        channel.tell({"event": "draining"})
    if message.get("command") == "stop":
        server.stopping.set()


def run(arguments: list[str], prog_name: str) -> None:
    """Serves, or works on a data directory if the first argument is `check` or `compact`. Raises click exceptions."""
    if arguments[:1] in (["check"], ["compact"]):
        from gateway.broker.check import command  # noqa: PLC0415 (only when asked for)

        command.main(arguments[0], arguments[1:], prog_name)
    else:
        broker.main(arguments, prog_name=prog_name, standalone_mode=False)


def main() -> None:
    """`python -m gateway.broker`. Wrong usage prints one line."""
    standard_files.write_any_path()
    standard_files.ignore_lost_messages()
    try:
        run(sys.argv[1:], "kestrel-gateway broker")
    except click.ClickException as exc:
        standard_files.error_line(f"kestrel-gateway broker: {usage_mistake(exc)}")
        sys.exit(exc.exit_code)
    except click.Abort:
        sys.exit(130)


if __name__ == "__main__":
    main()
