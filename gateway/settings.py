"""Every setting of `serve` with default, unit and range, in one frozen dataclass. Reads no environment and no files.

A field named `max_job_bytes` is the flag `--max-job-bytes` and the variable `KESTREL_GATEWAY_MAX_JOB_BYTES`; a field
`max_timeout_s` is `--max-timeout` and `KESTREL_GATEWAY_MAX_TIMEOUT` (durations are in seconds). gateway/cli.py makes
the flags from this table. docs/settings.md lists them; a test compares the two.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.common.counted import counted
from gateway.common.net import UNIX, host_and_port, is_host, is_loopback


class SettingsError(ValueError):
    """The value of a setting is not allowed. The message names the setting, the value and the range."""


SHORTEST_LEASE_S = 1.0
"""The contract's minimum of `lease_seconds`; a test compares the two."""

_NAMESPACE = re.compile(r"(?=.{1,32}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")

# An Origin header as browsers write it: no path, no upper case (RFC 6454, section 6.2). `*` and `null` do not match.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z*?#@,]+")

# The DNS name of a sender of events, or `*` for any (HTTP 1.1 Web Hooks for Event Delivery, section 4.1.2).
_SENDER = re.compile(r"\*|(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")

LONGEST_INSTANCE = 100
LONGEST_SOCKET_PATH = 103
"""Bytes. Source: unix(7), sun_path, on macOS, where it is shorter than on Linux."""
_ROOT_PATH = re.compile(r"(?=.{1,200}\Z)(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")

# The first segments of the API's paths.
_OWN_PATHS = frozenset(
    {"queues", "next", "stream", "leases", "backends", "metrics", "livez", "readyz", "openapi.yaml", "openapi.json"}
    | {"problems", "cluster", "docs", "ui"}
)

_OPENTELEMETRY = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")

# A URL with a host name or an address and a port, without a path.
_INSTANCE = re.compile(r"https?://(?:[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


def _setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    return field(default=default, metadata={"help": help, "unit": unit, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of `serve`. Raises SettingsError if a value is not allowed."""

    # Addresses and files
    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8080, "TCP port to listen on; 0 picks a free one", low=0, high=65535)
    listen: str = _setting("", "unix:PATH of a socket to listen on, in place of --host and --port")
    workers: int = _setting(1, "worker processes sharing the port", low=1, high=64)
    data: Path = _setting(Path("data"), "directory of the embedded broker and of the lease key")
    keys: Path | None = _setting(None, "TOML file with the keys of callers; read again on SIGHUP")
    no_auth: bool = _setting(False, "allow a non-loopback address without --keys (requests are not authenticated)")
    allowed_hosts: tuple[str, ...] = _setting(
        (), "Host names accepted without --keys, in addition to loopback (repeatable)"
    )
    allowed_origins: tuple[str, ...] = _setting((), "Origins whose pages may call from a browser (CORS; repeatable)")
    webhook_origins: tuple[str, ...] = _setting(
        (),
        "values of WebHook-Request-Origin whose webhook handshake is accepted; `*` accepts any (repeatable)",
    )
    root_path: str = _setting(
        "", "path under which a proxy publishes the gateway, such as /jobs; URLs in answers begin with it"
    )
    ui: str = _setting(
        "full", "the page at /ui/: with its actions, without them, or none", choices=("full", "read-only", "off")
    )
    ui_payloads: str = _setting("shown", "whether the page shows the payloads of jobs", choices=("shown", "hidden"))
    ssl_certfile: Path | None = _setting(
        None, "PEM file with the certificate and its chain; the port then serves only HTTPS"
    )
    ssl_keyfile: Path | None = _setting(None, "PEM file with the private key, if it is not in --ssl-certfile")
    ssl_keyfile_password: str = _setting("", "password of the private key; prefer the variable to the flag")
    ssl_ca_certs: Path | None = _setting(
        None, "PEM file with certificate authorities; clients must present a certificate from one of them"
    )

    advertise: str = _setting(
        "", "URL at which other replicas reach this one to settle its leases; needs --cluster-secret"
    )
    cluster_secret: tuple[str, ...] = _setting(
        (),
        "secret of at least 32 bytes that all replicas share, or two during a change; prefer the variable to the flag",
    )
    cluster_secret_file: Path | None = _setting(
        None, "file with one or two cluster secrets, one per line; read again on SIGHUP"
    )

    namespace: str = _setting("", "prefix of every Kestrel key, as in {namespace}__{queue}")
    queues: Path | None = _setting(None, "TOML file with the policies of queues; read again on SIGHUP")

    # Kestrel
    kestrel: tuple[str, ...] = _setting(
        (),
        "Kestrel servers as HOST:PORT, unix:PATH, dns:NAME:PORT or zk:HOST:PORT/PREFIX (repeatable or "
        "comma-separated); without any, an embedded broker",
    )
    kestrel_file: Path | None = _setting(None, "file with more Kestrel servers, one per line; read again on SIGHUP")
    kestrel_resolve_s: float = _setting(
        30.0,
        "time between two lookups of dns: names, and of zk: sets that send no change",
        unit="s",
        low=0.1,
        high=86400,
    )
    kestrel_connect_timeout_s: float = _setting(
        2.0, "time limit for connecting to Kestrel", unit="s", low=0.01, high=60
    )
    kestrel_command_timeout_s: float = _setting(
        5.0, "time limit for an answer from Kestrel", unit="s", low=0.01, high=300
    )
    kestrel_idle_timeout_s: float = _setting(
        60.0,
        "Kestrel's limit for idle connections (clientTimeout); waits and ping intervals stay below it; "
        "0: Kestrel has no limit",
        unit="s",
        low=0,
        high=86400,
    )
    kestrel_open_timeout_s: float = _setting(
        0.0,
        "Kestrel's openTransactionTimeout; leases end --kestrel-command-timeout before it; 0: Kestrel has no limit",
        unit="s",
        low=0,
        high=86400,
    )
    kestrel_max_item_bytes: int = _setting(
        0, "Kestrel's maxItemSize; a larger item is refused with 413; 0: unknown", unit="bytes", low=0, high=1 << 30
    )
    kestrel_max_subscriptions: int = _setting(
        6,
        "maximum number of subscriptions of one queue; this project's broker, embedded or separate, has no such limit",
        low=1,
        high=1000,
    )
    ordering_keys: str = _setting(
        "stay",
        "what happens to new jobs with an Ordering-Key while their server is read-only or quiescent: stay answers 503; "
        "move stores them on another server, where they may overtake older ones",
        choices=("stay", "move"),
    )
    kestrel_pool_size: int = _setting(64, "idle connections kept open per server", low=1, high=10000)
    kestrel_open_reads: int = _setting(
        1,
        "open reads of one connection (Kestrel's maxOpenTransactions), and so the maximum number of jobs in a batch",
        low=1,
        high=100,
    )
    kestrel_waits: int = _setting(
        8, "blocked gets per queue and server, shared by all polls that wait for the queue", low=1, high=32
    )

    # The embedded broker
    broker_listen: str = _setting("", "HOST:PORT at which memcache clients also reach the embedded broker")
    broker_config: Path | None = _setting(None, "TOML file with the embedded broker's queue limits")
    fsync: str = _setting("always", "when the embedded broker forces commits to disk", choices=("always", "off"))

    # Jobs, polls and leases
    queue_figures_interval_s: float = _setting(
        10.0, "time between two readings of the figures of all queues", unit="s", low=0.2, high=3600.0
    )
    max_queue_metrics: int = _setting(1000, "queues with metrics of their own, the largest first", low=0, high=2000)
    max_queues: int = _setting(10000, "maximum number of queues of one tenant", low=1, high=1000000)
    max_job_bytes: int = _setting(1 << 20, "largest body of one job", unit="bytes", low=1, high=1 << 30)
    max_batch_jobs: int = _setting(1000, "maximum number of jobs in one request", low=1, high=100000)
    max_batch_bytes: int = _setting(
        8 << 20, "largest body of a request with many jobs", unit="bytes", low=1, high=1 << 30
    )
    default_timeout_s: float = _setting(20.0, "how long `next` waits without `timeout`", unit="s", low=0, high=3600)
    max_timeout_s: float = _setting(
        45.0, "longest `timeout` of `next`; many proxies time out after 50 s", unit="s", low=0, high=3600
    )
    default_lease_s: float = _setting(60.0, "length of a lease without `lease_seconds`", unit="s", low=1, high=43200)
    max_lease_s: float = _setting(43200.0, "longest `lease_seconds`", unit="s", low=1, high=43200)
    tenant_share: float = _setting(
        0.5, "largest share of the unused part of a limit that one tenant may take", low=0.01, high=1
    )
    max_waiters: int = _setting(10000, "waiting polls per worker", low=1, high=1000000)
    max_tenant_waiters: int = _setting(10000, "waiting polls of one tenant per worker", low=1, high=1000000)
    max_queue_waiters: int = _setting(10000, "waiting polls of one queue per worker", low=1, high=1000000)
    max_leases: int = _setting(
        10000, "open leases per worker; with Kestrel servers each uses one connection", low=1, high=100000
    )
    max_tenant_leases: int = _setting(10000, "open leases of one tenant per worker", low=1, high=100000)
    max_lease_bytes: int = _setting(
        512 << 20, "memory per worker for leased jobs", unit="bytes", low=1 << 16, high=1 << 40
    )
    max_server_leases: int = _setting(10000, "open leases per worker on one Kestrel server", low=1, high=100000)
    max_waits: int = _setting(
        2000, "blocked gets per worker on one Kestrel server, for all queues together", low=1, high=100000
    )
    max_attempts: int = _setting(
        25,
        "deliveries of a job before it becomes a dead letter, unless its queue's policy sets max_attempts",
        low=1,
        high=1000000,
    )
    settled_memory_s: float = _setting(
        600.0, "how long a repeated settlement of an ended lease gets the same answer", unit="s", low=1, high=86400
    )
    max_settled: int = _setting(100000, "ended leases remembered per worker", low=1, high=10000000)
    idempotency_window_s: float = _setting(
        86400.0, "how long an Idempotency-Key is remembered", unit="s", low=1, high=2592000
    )
    max_idempotency_keys: int = _setting(
        1000000, "Idempotency-Keys remembered on this host; above it the oldest are forgotten", low=1000, high=100000000
    )

    # Streams
    max_stream_window: int = _setting(1000, "largest `window` of a stream", low=1, high=100000)
    stream_window_bytes: int = _setting(
        8 << 20,
        "size of the unsettled jobs of a stream above which it gets no further job",
        unit="bytes",
        low=1,
        high=1 << 30,
    )
    stream_keepalive_s: float = _setting(
        15.0, "time without a job after which a stream sends a keepalive line", unit="s", low=0.1, high=3600
    )
    max_stream_s: float = _setting(3600.0, "longest lifetime of a stream", unit="s", low=0.1, high=86400)

    # HTTP limits
    max_header_bytes: int = _setting(
        65536, "largest request line and headers together", unit="bytes", low=1024, high=1 << 20
    )
    header_timeout_s: float = _setting(
        10.0, "time limit for a request's header block, and for a TLS handshake", unit="s", low=0.1, high=600
    )
    body_timeout_s: float = _setting(30.0, "time limit for a request's body", unit="s", low=0.1, high=3600)
    max_buffer_bytes: int = _setting(
        256 << 20,
        "memory per worker for requests and answers in progress",
        unit="bytes",
        low=1 << 16,
        high=1 << 40,
    )
    max_connections: int = _setting(16384, "client connections per worker", low=1, high=1000000)
    tcp_keepalive_s: float = _setting(
        30.0,
        "idle time before TCP probes a client's host; the connection is dropped after the same time without a reply",
        unit="s",
        low=1,
        high=7200,
    )
    tcp_user_timeout_s: float = _setting(
        30.0, "time without acknowledgement of sent data after which a client is dropped", unit="s", low=0.1, high=7200
    )
    keep_alive_s: float = _setting(
        75.0,
        "how long an idle client connection stays open; answers announce it in Keep-Alive",
        unit="s",
        low=1,
        high=3600,
    )

    # Process
    grace_s: float = _setting(
        8.0,
        "time after SIGTERM for open leases to be settled and requests in progress to end",
        unit="s",
        low=0,
        high=3600,
    )
    traces: str = _setting(
        "off",
        "OpenTelemetry spans of jobs: off, or otlp, which sends them as http/protobuf, as the OTEL_ variables say",
        choices=("off", "otlp"),
    )
    log_format: str = _setting("text", "format of the log lines on standard error", choices=("text", "json"))
    log_expected: str = _setting(
        "info",
        "level of the lines of requests that end as expected, with a status below 400",
        choices=("debug", "info"),
    )
    log_level: str = _setting("info", "lowest level that is logged", choices=("debug", "info", "warning", "error"))

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            _check(spec, getattr(self, spec.name))
        if self.default_timeout_s > self.max_timeout_s:
            raise SettingsError(
                f"default-timeout: {self.default_timeout_s:g} s is above max-timeout ({self.max_timeout_s:g} s); "
                "lower the first or raise the second"
            )
        if self.default_lease_s > self.max_lease_s:
            raise SettingsError(
                f"default-lease: {self.default_lease_s:g} s is above max-lease ({self.max_lease_s:g} s); "
                "lower the first or raise the second"
            )
        self._check_open_timeout()
        self._check_buffers()
        self._check_traces()
        if self.namespace and not _NAMESPACE.fullmatch(self.namespace):
            raise SettingsError(
                f"namespace: {self.namespace!r} is not 1 to 32 letters, digits and dashes, with no dash at either end"
            )
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(f"allowed-origins: {origin!r} is not an origin, such as https://app.example:8443")
        for sender in self.webhook_origins:
            if not _SENDER.fullmatch(sender):
                raise SettingsError(f"webhook-origins: {sender!r} is not a DNS name, such as eventgrid.azure.net, or *")
        if self.root_path:
            self._check_root_path()
        if self.broker_listen:
            self._check_broker_listen()
        if self.ssl_certfile is None and (self.ssl_keyfile or self.ssl_ca_certs):
            raise SettingsError(
                "ssl-certfile: not given, but --ssl-keyfile and --ssl-ca-certs need it; give the certificate"
            )
        self._check_cluster()
        if self.listen:
            self._check_listen()
        elif self.host and not is_host(self.host.strip("[]")):
            raise SettingsError(f"host: {self.host!r} is neither an address nor a host name")
        elif self.keys is None and not self.no_auth and not is_loopback(self.host):
            raise SettingsError(
                f"host: {self.host!r} is not a loopback address and requests are not authenticated; "
                "give --keys, or put an authenticating proxy in front and give --no-auth"
            )

    def _check_open_timeout(self) -> None:
        """Kestrel keeps a read open for this time only, so the shortest lease and its ack must fit in."""
        shortest_s = self.kestrel_command_timeout_s + SHORTEST_LEASE_S
        if 0 < self.kestrel_open_timeout_s < shortest_s:
            raise SettingsError(
                f"kestrel-open-timeout: {self.kestrel_open_timeout_s:g} s is too short for a lease of "
                f"{SHORTEST_LEASE_S:g} s and an ack (kestrel-command-timeout, {self.kestrel_command_timeout_s:g} s); "
                f"set {shortest_s:g} s or more, or a shorter kestrel-command-timeout"
            )

    def _check_buffers(self) -> None:
        """The largest body must fit in the memory that one tenant may use."""
        for name, size in (("max-job-bytes", self.max_job_bytes), ("max-batch-bytes", self.max_batch_bytes)):
            if size > self.max_buffer_bytes * self.tenant_share:
                raise SettingsError(
                    f"{name}: {counted(size, 'byte')} is above tenant-share ({self.tenant_share:g}) of "
                    f"max-buffer-bytes ({self.max_buffer_bytes}), so every body of that size would be refused; "
                    f"lower {name} or raise max-buffer-bytes"
                )

    def _check_traces(self) -> None:
        if self.traces != "off" and not all(map(find_spec, _OPENTELEMETRY)):
            raise SettingsError(
                f"traces: {self.traces!r} needs OpenTelemetry: pip install 'kestrel-gateway[otel]', or set it to 'off'"
            )

    @property
    def is_embedded(self) -> bool:
        """Whether the jobs are in the data directory, and not on Kestrel servers."""
        return not self.kestrel and self.kestrel_file is None

    @property
    def instance(self) -> str:
        """The URL of --advertise in normal form: lower case, no slash at the end. Empty without --advertise."""
        return self.advertise.rstrip("/").lower()

    def _check_root_path(self) -> None:
        if not _ROOT_PATH.fullmatch(self.root_path):
            raise SettingsError(
                f"root-path: {self.root_path!r} is not a path such as /jobs, without a slash at its end"
            )
        first = self.root_path.split("/")[1]
        if first in _OWN_PATHS:
            raise SettingsError(f"root-path: /{first} is a path of the gateway itself; choose another path")

    def _check_cluster(self) -> None:
        if self.advertise and not is_instance(self.instance):
            raise SettingsError(
                f"advertise: {self.advertise!r} is not http(s)://HOST[:PORT] of at most {LONGEST_INSTANCE} characters"
            )
        if self.advertise and not self.cluster_secret and self.cluster_secret_file is None:
            raise SettingsError(
                "advertise: also give --cluster-secret or --cluster-secret-file, the same on all replicas"
            )
        if not self.advertise and (self.cluster_secret or self.cluster_secret_file):
            raise SettingsError("cluster-secret: also give --advertise, the URL at which other replicas reach this one")
        if self.cluster_secret:
            check_secrets("cluster-secret", self.cluster_secret)
            if self.cluster_secret_file is not None:
                raise SettingsError("cluster-secret: --cluster-secret-file is also given; give only one of them")

    def _check_listen(self) -> None:
        path = self.listen.removeprefix(UNIX)
        if path == self.listen or not path:
            raise SettingsError(f"listen: {self.listen!r} is not unix:PATH; a TCP port is set by --host and --port")
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            raise SettingsError(
                f"listen: the path has {counted(len(os.fsencode(path)), 'byte')}; a Unix socket's path has at most "
                f"{LONGEST_SOCKET_PATH}"
            )

    def _check_broker_listen(self) -> None:
        if self.kestrel:
            raise SettingsError("broker-listen: there is no embedded broker with --kestrel; remove one of the two")
        if self.broker_listen.startswith("unix:"):
            return
        if (found := host_and_port(self.broker_listen)) is None:
            raise SettingsError(f"broker-listen: {self.broker_listen!r} is not HOST:PORT")
        host, _ = found
        if not self.no_auth and not is_loopback(host):
            raise SettingsError(
                f"broker-listen: {host!r} is not a loopback address and the memcache protocol has no authentication; "
                "give --no-auth if every host that reaches the address may use the broker"
            )


def is_instance(url: str) -> bool:
    """Whether the URL has the form of an instance: scheme, host and port, and nothing else."""
    found = _INSTANCE.fullmatch(url)
    return (
        found is not None
        and len(url) <= LONGEST_INSTANCE
        and is_host(urlsplit(url).hostname or "")
        and int(found[1] or 80) < 65536
    )


def flag(spec: dataclasses.Field[Any]) -> str:
    """The command-line flag of a field of Settings: `max_timeout_s` is `--max-timeout`."""
    return "--" + spec.name.removesuffix("_s").replace("_", "-")


def variable(spec: dataclasses.Field[Any]) -> str:
    """The environment variable of a field of Settings: `max_timeout_s` is `KESTREL_GATEWAY_MAX_TIMEOUT`."""
    return "KESTREL_GATEWAY_" + spec.name.removesuffix("_s").upper()


def check_secrets(name: str, secrets: Sequence[str]) -> None:
    """Raises SettingsError unless there are one or two secrets of at least 32 bytes. The message shows no secret."""
    if not 1 <= len(secrets) <= 2:
        raise SettingsError(f"{name}: {len(secrets)} secrets are given; give one, or two while the secret changes")
    for secret in secrets:
        if len(secret.encode()) < 32:
            raise SettingsError(f"{name}: a secret has {counted(len(secret.encode()), 'byte')}; at least 32 are needed")


def _check(spec: dataclasses.Field[Any], value: Any) -> None:
    low, high, choices = spec.metadata["low"], spec.metadata["high"], spec.metadata["choices"]
    name = flag(spec).removeprefix("--")
    unit = f" {spec.metadata['unit']}" if spec.metadata["unit"] else ""
    if choices and value not in choices:
        raise SettingsError(f"{name}: {value!r} is not one of {', '.join(choices)}")
    if low is not None and high is not None and not low <= value <= high:
        raise SettingsError(f"{name}: {value!r} is not between {low:.15g} and {high:.15g}{unit}")
