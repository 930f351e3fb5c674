"""docs/settings.md, docs/limits.md and the packaging files say what the code does."""

import dataclasses
import re
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.api import exchange, specification
from gateway.api.handlers import leases
from gateway.api.request import accept, idempotency, prefer
from gateway.api.response import rendering
from gateway.cli import default_text, range_text
from gateway.common.net import is_loopback
from gateway.delivery import pause
from gateway.delivery.dead_letters import redrive, search
from gateway.envelope import attributes, json_text, media, read, rewrite
from gateway.http import request_parser
from gateway.names import namespace
from gateway.settings import _OWN_PATHS, Settings, SettingsError, flag, variable
from tests.lab.commands import Commands
from tests.lab.yaml_text import parse_yaml


def rows(root: Path) -> list[list[str]]:
    """The rows of the table of settings."""
    table = (root / "docs" / "settings.md").read_text().split("<!-- settings -->")[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "`--" in line]


def test_settings_table_is_the_code(root: Path) -> None:
    """One row a field, in order: flag, variable, default, range and meaning."""
    expected = [
        [
            f"`{flag(field)}`",
            f"`{variable(field)}`",
            default_text(field),
            range_text(field),
            field.metadata["help"],
        ]
        for field in dataclasses.fields(Settings)
    ]
    assert rows(root) == expected


def test_fixed_limits_are_the_code(root: Path) -> None:
    """The table of fixed limits has the values of the constants."""
    paths = parse_yaml((root / "openapi.yaml").read_text())["paths"]

    def query(path: str, name: str) -> dict[str, Any]:
        found = [each["schema"] for each in paths[path]["get"]["parameters"] if each.get("name") == name]
        return cast(dict[str, Any], found[0])

    table = (root / "docs" / "limits.md").read_text().split("<!-- fixed limits -->")[1]
    shown = [[cell.strip() for cell in line.strip("|").split("|")][:2] for line in table.strip().splitlines()[2:]]
    assert shown == [
        ["headers of a request", f"{request_parser.MAX_HEADERS}"],
        [
            "sizes, extensions and trailers of a chunked body, beyond the length of its data",
            f"{request_parser.CHUNK_FRAMING_BYTES:,} bytes",
        ],
        ["length of a queue's name", f"{namespace.MAX_NAME} characters"],
        ["length of a Content-Type", f"{media.MAX_LENGTH} characters"],
        ["length of an `Idempotency-Key`", f"{idempotency.MAX_KEY} characters"],
        ["levels of JSON that are always accepted", f"{json_text.MAX_DEPTH}"],
        ["attributes of an event", f"{attributes.MAX_ATTRIBUTES}"],
        ["attributes of an event, together", f"{attributes.MAX_ATTRIBUTES_BYTES:,} bytes"],
        ["white space in a row in a batch", f"{json_text.MAX_BLANK:,} bytes"],
        [
            "JSON values in the body of a request that carries no jobs, such as settle",
            f"{specification.MAX_VALUES:,}",
        ],
        ["body of a nack, reject or settle request", f"{leases.MAX_SETTLE_BYTES:,} bytes"],
        ["body of any other request that carries no jobs", f"{exchange.MAX_CONTROL_BYTES:,} bytes"],
        ["`reason` of a nack or reject", f"{rewrite.MAX_ERROR:,} characters"],
        ["attributes of a stored item", f"{read.MAX_READ:,}"],
        ["attributes in the `ce-` headers of an answer", f"{rendering.MAX_ATTRIBUTE_HEADERS}"],
        ["`ce-` headers of an answer, together", f"{rendering.MAX_ATTRIBUTE_BYTES:,} bytes"],
        ["media ranges of `Accept`", f"{accept.MAX_RANGES}"],
        ["`Prefer` headers of a request, together", f"{prefer.MAX_LENGTH} bytes"],
        [
            "queues that requests have paused, of a tenant or of a deployment without tenants",
            f"{pause.MAX_PAUSED}",
        ],
        ["dead letters in a list", f"{query('/queues/{queue}/dead-letters/jobs', 'max')['maximum']}"],
        ["dead letters on a server that a search for one of them looks at", f"{search.SEARCHED:,}"],
        ["queues in one poll", f"{query('/next', 'queue')['maxItems']}"],
        ["time of a redrive", f"{redrive.LONGEST_S:g} s"],
    ]


def test_every_variable_that_is_named_exists(root: Path) -> None:
    """Dockerfile, compose file and the pages name only variables that the program reads."""
    known = {variable(field) for field in dataclasses.fields(Settings)} | {"KESTREL_GATEWAY_COMMAND"}
    known |= set(re.findall(r"KESTREL_GATEWAY_TEST_[A-Z_]+", (root / ".ci" / "run").read_text()))
    known |= broker_variables() | client_variables()
    pages = (
        "docs/operations.md",
        "docs/settings.md",
        "docs/limits.md",
        "docs/replicas.md",
        "docs/command-line.md",
        "docs/workers.md",
        "README.md",
    )
    for name in ("Dockerfile", "docker-compose.yml", ".ci/run", *pages):
        named = set(re.findall(r"KESTREL_GATEWAY_[A-Z_]*[A-Z]", (root / name).read_text()))
        assert named - known == set(), name


def client_variables() -> set[str]:
    """The variables of the commands that talk to a gateway."""
    from gateway.client import target
    from gateway.work.cli import SECRET_VARIABLE

    where = {target.URL_VARIABLE, target.KEY_VARIABLE, target.KEY_FILE_VARIABLE, target.FILE_VARIABLE}
    return {*where, SECRET_VARIABLE, "KESTREL_GATEWAY_COMPLETE"}


def broker_variables() -> set[str]:
    """The variables of the command `broker`."""
    from gateway.broker.__main__ import broker

    named: set[str] = set()
    for option in broker.params:
        if option.envvar:
            named |= {option.envvar} if isinstance(option.envvar, str) else set(option.envvar)
    return named


def test_every_flag_that_is_named_exists(root: Path) -> None:
    """Flags in the pages about running a gateway are flags of `serve`, `broker` or `healthcheck`."""
    pages = ("operations.md", "settings.md", "limits.md", "replicas.md")
    text = "\n".join((root / "docs" / page).read_text() for page in pages)
    run = Commands("http://127.0.0.1:1")
    shown = "".join(run.text(command, "--help") for command in ("serve", "broker", "healthcheck"))
    for named in set(re.findall(r"`(--[a-z-]+)", text)):
        assert re.search(rf"{named}\b", shown), named


def test_compose_file_is_what_it_says(root: Path) -> None:
    """A foreign image gets no command of ours; the gateway gets Kestrel's address; only loopback is published."""
    compose: dict[str, Any] = parse_yaml((root / "docker-compose.yml").read_text())
    kestrel, gateway = compose["services"]["kestrel"], compose["services"]["gateway"]
    assert kestrel["image"] == "${KESTREL_IMAGE:-kestrel-gateway}"
    assert not {"command", "entrypoint", "build"} & set(kestrel)
    assert gateway["environment"]["KESTREL_GATEWAY_KESTREL"] == "kestrel:22133"
    assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])
    volumes = {volume.split(":")[0] for service in (kestrel, gateway) for volume in service["volumes"]}
    assert volumes == set(compose["volumes"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": 65536}, "port: 65536 is not between 0 and 65535"),
        ({"fsync": "maybe"}, "fsync: 'maybe' is not one of always, off"),
        ({"default_timeout_s": 46.0}, "default-timeout: 46 s is above max-timeout (45 s)"),
        ({"root_path": "jobs"}, "root-path: 'jobs' is not a path such as /jobs, without a slash at its end"),
        ({"root_path": "/jobs/"}, "root-path: '/jobs/' is not a path such as /jobs, without a slash at its end"),
        ({"root_path": "/a//b"}, "root-path: '/a//b' is not a path such as /jobs, without a slash at its end"),
        ({"root_path": "/a/../b"}, "root-path: '/a/../b' is not a path such as /jobs, without a slash at its end"),
        (
            {"root_path": "/queues/api"},
            "root-path: /queues is a path of the gateway itself; choose another path",
        ),
        ({"default_lease_s": 61.0, "max_lease_s": 60.0}, "default-lease: 61 s is above max-lease (60 s)"),
        ({"keep_alive_s": float("nan")}, "keep-alive: nan is not between 1 and 3600 s"),
        ({"max_waiters": 0}, "max-waiters: 0 is not between 1 and 1000000"),
        ({"kestrel_open_timeout_s": 5.9}, "kestrel-open-timeout: 5.9 s is too short for a lease of 1 s and an ack"),
        ({"webhook_origins": ("https://x",)}, "webhook-origins: 'https://x' is not a DNS name"),
        ({"host": "0.0.0.0"}, "host: '0.0.0.0' is not a loopback address"),
    ],
)
def test_values_out_of_range_are_told(values: dict[str, Any], message: str) -> None:
    """The message names key, value and range."""
    with pytest.raises(SettingsError, match=re.escape(message)):
        Settings(**values)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("example.org", False),
    ],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    """Only what certainly stays on this machine counts."""
    assert is_loopback(host) is expected


SECRET = "s" * 32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"advertise": "http://a:1"}, "advertise: also give --cluster-secret"),
        ({"cluster_secret": (SECRET,)}, "cluster-secret: also give --advertise"),
        ({"advertise": "http://a", "cluster_secret": ("short",)}, "cluster-secret: a secret has 5 bytes; at least 32"),
        ({"advertise": "http://a", "cluster_secret": (SECRET, "x")}, "cluster-secret: a secret has 1 byte;"),
        ({"advertise": "http://a", "cluster_secret": (SECRET,) * 3}, "cluster-secret: 3 secrets are given"),
        (
            {"advertise": "http://a", "cluster_secret": (SECRET,), "cluster_secret_file": Path("x")},
            "give only one of them",
        ),
        *[
            ({"advertise": url, "cluster_secret": (SECRET,)}, f"advertise: {url!r} is not http(s)://HOST[:PORT]")
            for url in (
                "a:80",
                "ftp://a",
                "http://",
                "http://a/b",
                "http://u@a",
                "http://a?b",
                "http://a b",
                "http://é",
                "http://a..b",
            )
        ],
        ({"advertise": "http://" + "a" * 94, "cluster_secret": (SECRET,)}, "of at most 100 characters"),
    ],
)
def test_a_cluster_needs_an_address_and_a_secret(values: dict[str, Any], message: str) -> None:
    """One without the other, a short secret, or what is no URL of a host: refused, and no secret is shown."""
    with pytest.raises(SettingsError, match=re.escape(message)) as told:
        Settings(**values)
    assert SECRET not in str(told.value)


def test_the_advertised_url_has_one_form() -> None:
    """Letter case and a last slash do not make another instance."""
    for url in ("http://Host:80/", "http://host:80"):
        assert Settings(advertise=url, cluster_secret=(SECRET,)).instance == "http://host:80"


def test_the_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    """One per line, blank lines are ignored; an unusable entry is an error with the file's name."""
    from gateway.config.cluster_secret import secrets_of

    path = tmp_path / "secret"
    settings = Settings(advertise="http://a", cluster_secret_file=path)
    with pytest.raises(SettingsError, match="cannot be read"):
        secrets_of(settings)
    for content, message in ((b"", "0 secrets"), (b"short\n", "5 bytes"), (b"\xff" * 40, "not text")):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=message):
            secrets_of(settings)
    path.write_text(f"\n{SECRET}\n  {SECRET[::-1]}x \n\n")
    assert secrets_of(settings) == (SECRET.encode(), SECRET.encode() + b"x")


def test_no_root_path_hides_a_path_of_the_api(root):
    """Whatever the first segment of a path in openapi.yaml is, no root path may begin with it."""
    paths = parse_yaml((root / "openapi.yaml").read_text())["paths"]
    assert {path.split("/")[1] for path in paths} - {""} <= _OWN_PATHS


def test_a_byte_order_mark_before_a_file_is_no_part_of_it(tmp_path: Path) -> None:
    """Files of policies, keys, the broker, Kestrel servers and secrets may come from an editor that writes one."""
    from gateway.broker.config import load as load_broker
    from gateway.config import keys, policies
    from gateway.config.cluster_secret import secrets_of
    from gateway.kestrel.discovery.members import read_file
    from gateway.names.namespace import Namespace

    file = tmp_path / "file"

    def written(text: str) -> Path:
        file.write_text(text, "utf-8-sig")
        return file

    policies.load(written("[queues.emails]\nttl = 5\n"), Namespace())
    assert len(keys.load(written(keys.new("shop", "", ["produce"])[1]))) == 1
    load_broker(written("[queues.emails]\nmax_items = 5\n"))
    assert len(read_file(written("127.0.0.1:22133\n"))) == 1
    settings = Settings(advertise="http://127.0.0.1:8080", cluster_secret_file=written(SECRET))
    assert secrets_of(settings) == (SECRET.encode(),)
