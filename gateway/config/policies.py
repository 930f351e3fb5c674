"""The operator's settings for single queues: a TOML file becomes frozen policies. Knows no Kestrel and no HTTP.

    [queues.emails]              one queue
    [queues."img-*"]             every queue that matches the pattern
    [queues."acme/emails"]       one tenant's queue; either half may be a pattern
    [queues."emails+audit"]      one fanout child; a table without `+` covers no child

Exactly one table applies to a queue; a table inherits nothing from another one. If several tables match, the first of
these rules that decides picks one:
1. a table that names the queue, before one with a pattern;
2. a table that names the tenant, before one with a pattern of tenants, before one without a tenant;
3. the table with more characters that are not `*` or `?`; the queue's part is compared first;
4. the first table in the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, Final

from gateway.config import toml_file
from gateway.config.retry_delay import ALLOWED, RetryDelay, retry_delay
from gateway.config.toml_file import Mistake, MistakesError, TomlFile
from gateway.errors import InvalidName
from gateway.names import glob
from gateway.names.namespace import CHILD_DEAD, DEAD, FANOUT, SEPARATOR, Name, Namespace, check_name

# Leaves room for the suffix of dead letters. Source: names/namespace.py, MAX_KEY.
MAX_OWN_KEY: Final = 128
LONGEST_TTL_S: Final = 315_360_000
# No space, and no character that Kestrel reads as an option or as fanout, or refuses.
# Source: kestrel-wire.md, "Names and errors".
_KEY = re.compile(rf"(?=[^/+.~]*\Z)[!-~]{{1,{MAX_OWN_KEY}}}")


class Format(Enum):
    """How the items of a queue are stored: json means in an envelope, raw means byte for byte."""

    JSON = "json"
    RAW = "raw"


class Retry(Enum):
    """The end of the queue to which a job returns."""

    HEAD = "head"
    TAIL = "tail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The policy of one queue. A field that is None means: use the settings.

    ttl_s, lease_s: used if the request gives none. max_bytes: limit for the body of one job. duplicates_ok: a put with
    an unknown outcome is sent once more. paused: no job is delivered.
    max_in_flight: jobs under lease at a time. rate: jobs delivered in a second. key: Kestrel's name of the queue.
    retry_delay: None: no delay.
    """

    format: Format = Format.JSON
    ttl_s: float | None = None
    lease_s: float | None = None
    max_attempts: int | None = None
    retry: Retry = Retry.TAIL
    retry_delay: RetryDelay | None = None
    dead_letter: str | None = None
    max_bytes: int | None = None
    duplicates_ok: bool = False
    paused: bool = False
    max_in_flight: int | None = None
    rate: float | None = None
    key: str | None = None

    @property
    def raw(self) -> bool:
        """Whether bodies are stored and items are delivered byte for byte."""
        return self.format is Format.RAW


DEFAULT: Final = Policy()


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file. tenant: empty if the title names none. first_line: the line of the table."""

    tenant: str
    queue: str
    policy: Policy

    def covers(self, tenant: str, queue: str) -> bool:
        return (not self.tenant or glob.matches(self.tenant, tenant)) and glob.covers(self.queue, queue)

    @property
    def title(self) -> str:
        """The title as it is in the file."""
        return f"{self.tenant}/{self.queue}" if self.tenant else self.queue

    @property
    def rank(self) -> tuple[int, ...]:
        """Sorts tables by rules 1 to 3 of the module; a lower rank comes first."""
        tenant = 2 if not self.tenant else 1 if glob.is_glob(self.tenant) else 0
        return (glob.is_glob(self.queue), tenant, -_literals(self.queue), -_literals(self.tenant))


class Policies:
    """All tables of a deployment. keys: the queues that have a key of their own."""

    def __init__(self, tables: tuple[Table, ...] = ()) -> None:
        self._tables = sorted(tables, key=lambda each: each.rank)
        self.keys: Mapping[Name, str] = {
            Name(each.tenant, each.queue): each.policy.key for each in tables if each.policy.key is not None
        }

    def of(self, tenant: str, queue: str) -> Policy:
        """The policy of a queue. tenant is empty if the deployment has no tenants."""
        table = self.table(tenant, queue)
        return DEFAULT if table is None else table.policy

    def table(self, tenant: str, queue: str) -> Table | None:
        """The table that applies to a queue."""
        return next((table for table in self._tables if table.covers(tenant, queue)), None)


def load(path: Path | None, namespace: Namespace) -> Policies:
    """The policies in the file; none without a file. Raises MistakesError with every mistake and its line."""
    if path is None:
        return Policies()
    file = toml_file.read(path)
    mistakes = [
        file.mistake(f"{name}: unknown; the file may hold only [queues.NAME] tables", name)
        for name in file.values
        if name != "queues"
    ]
    tables = []
    queues = file.values.get("queues", {})
    if not isinstance(queues, dict):
        mistakes.append(file.mistake("queues: not a table; write [queues.NAME]", "queues"))
        queues = {}
    for name, values in queues.items():
        table = _table(file, name, values, namespace, mistakes)
        if table is not None:
            tables.append(table)
    _check_keys(file, tables, namespace, mistakes)
    _check_dead_letters(file, tables, mistakes)
    if mistakes:
        raise MistakesError(sorted(mistakes))
    return Policies(tuple(tables))


def _table(file: TomlFile, title: str, values: Any, namespace: Namespace, mistakes: list[Mistake]) -> Table | None:
    where = f"queues.{title}"
    tenant, slash, queue = title.rpartition("/")
    wrong = _wrong_name(tenant, slash, queue, namespace)
    if wrong:
        mistakes.append(file.mistake(f"{where}: {wrong}", "queues", title))
    if not isinstance(values, dict):
        mistakes.append(file.mistake(f"{where}: {values!r} is not a table; write [{where}]", "queues", title))
        return None
    policy = {}
    for key, value in values.items():
        rule = RULES.get(key)
        if rule is None or (FANOUT in queue and key in OF_PUBLISHING):
            allowed = [each for each in RULES if FANOUT not in queue or each not in OF_PUBLISHING]
            what = "unknown" if rule is None else "a subscription uses the value of its queue"
            text = f"{where}.{key}: {what}; allowed are {', '.join(allowed)}"
            mistakes.append(file.mistake(text, "queues", title, key))
            continue
        try:
            policy[rule.field] = rule.take(value)
        except ValueError:
            text = f"{where}.{key}: {_shown(value)} is not {rule.allowed}"
            mistakes.append(file.mistake(text, "queues", title, key))
    return None if wrong else Table(tenant, queue, Policy(**policy))


def _wrong_name(tenant: str, slash: str, queue: str, namespace: Namespace) -> str:
    """What is wrong with a table's title; empty if nothing is."""
    if slash and not namespace.tenanted:
        return "names a tenant, but this deployment has no tenants; tenants need --keys"
    queue, plus, child = queue.partition(FANOUT)
    children = ((child, "subscription"),) if plus else ()
    for part, what in ((queue, "queue"), *children, *(((tenant, "tenant"),) if slash else ())):
        if glob.is_glob(part):
            if not glob.PATTERN.fullmatch(part):
                return f"{part!r} is not a pattern: use 1 to 64 of A-Z a-z 0-9 _ - * ?"
            continue
        try:
            check_name(part, what)
        except InvalidName as exc:
            return exc.detail
    return ""


def _check_keys(file: TomlFile, tables: list[Table], namespace: Namespace, mistakes: list[Mistake]) -> None:
    """Every key belongs to one queue, also to a queue that no table names."""
    owners: dict[str, str] = {}
    for table in tables:
        key = table.policy.key
        if key is None:
            continue
        title = table.title
        wrong = _wrong_key(key, table, owners, namespace)
        if wrong:
            mistakes.append(file.mistake(f"queues.{title}.key: {key!r} {wrong}", "queues", title, "key"))
        owners.setdefault(key, title)


def _check_dead_letters(file: TomlFile, tables: list[Table], mistakes: list[Mistake]) -> None:
    """A queue that a table names is not its own dead-letter queue. Queues that match a pattern keep `__dead`."""
    for table in tables:
        if table.policy.dead_letter == table.queue:
            text = (
                f"queues.{table.title}.dead_letter: {table.queue!r} is this queue itself; name another queue, or leave "
                "dead_letter out"
            )
            mistakes.append(file.mistake(text, "queues", table.title, "dead_letter"))


def _wrong_key(key: str, table: Table, owners: Mapping[str, str], namespace: Namespace) -> str:
    if glob.is_glob(table.queue) or glob.is_glob(table.tenant):
        return "is in a table for several queues, which cannot share a key; write a table for one queue"
    if namespace.tenanted and not table.tenant:
        return 'would be shared by all tenants; name the queue of one tenant: [queues."TENANT/QUEUE"]'
    if key in owners:
        return f"is already the key of queues.{owners[key]}; choose another key"
    if key.endswith((SEPARATOR + DEAD, SEPARATOR + CHILD_DEAD)):
        return (
            f"ends like the key of a dead-letter queue ({SEPARATOR}{DEAD}, {SEPARATOR}{CHILD_DEAD}); choose another key"
        )
    if namespace.is_internal(key):
        return "is the key of an internal queue of the gateway; choose another key"
    made = namespace.read(key)
    if made is not None and made != Name(table.tenant, table.queue):
        other = f"{made.tenant}/{made.queue}" if made.tenant else made.queue
        return f"is already the key of the queue {other!r}; choose another key"
    return ""


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule for one key of a table. field: of Policy. take: returns the value or raises ValueError."""

    field: str
    allowed: str
    take: Callable[[Any], Any]


def _number(low: float, high: float) -> Callable[[Any], float]:
    def take(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high or math.isnan(value):
            raise ValueError
        return float(value)

    return take


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def take(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return value

    return take


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 (all rules refuse in the same way)
    return value


def _queue_name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004
    try:
        check_name(value, "queue")
    except InvalidName as exc:
        raise ValueError from exc
    return value


def _own_key(value: Any) -> str:
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise ValueError
    return value


RULES: Final[Mapping[str, Rule]] = {
    "format": Rule("format", '"json" or "raw"', Format),
    "ttl": Rule("ttl_s", f"seconds from 0.001 to {LONGEST_TTL_S}", _number(0.001, LONGEST_TTL_S)),
    "lease": Rule("lease_s", "seconds from 1 to 43200", _number(1, 43200)),
    "max_attempts": Rule("max_attempts", "a whole number from 1 to 1000000", _whole(1, 1_000_000)),
    "retry": Rule("retry", '"head" or "tail"', Retry),
    "retry_delay": Rule("retry_delay", ALLOWED, retry_delay),
    "dead_letter": Rule("dead_letter", "a queue's name", _queue_name),
    "max_bytes": Rule("max_bytes", f"a whole number of bytes from 1 to {1 << 30}", _whole(1, 1 << 30)),
    "duplicates_ok": Rule("duplicates_ok", "true or false", _yes_or_no),
    "paused": Rule("paused", "true or false", _yes_or_no),
    "max_in_flight": Rule("max_in_flight", "a whole number from 1 to 1000000", _whole(1, 1_000_000)),
    "rate": Rule("rate", "jobs in a second from 0.001 to 100000", _number(0.001, 100_000)),
    "key": Rule("key", f"1 to {MAX_OWN_KEY} visible ASCII characters other than / + . ~", _own_key),
}
"""The keys that a table may hold. docs/policies.md lists them; a test compares the two."""

assert {rule.field for rule in RULES.values()} == {field.name for field in fields(Policy)}


OF_PUBLISHING: Final = frozenset({"format", "ttl", "max_bytes", "duplicates_ok", "key"})
"""The keys that a fanout child's table cannot have: its jobs are published to its queue."""


def _literals(pattern: str) -> int:
    return len(pattern) - pattern.count("*") - pattern.count("?")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
