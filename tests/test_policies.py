"""The file of policies: every mistake is named with file, line, key, value and what is allowed."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.policies import DEFAULT, MAX_OWN_KEY, RULES, Format, Policies, Policy, Retry, load
from gateway.config.toml_file import MistakesError
from gateway.names import glob
from gateway.names.namespace import Namespace
from tests.process.test_cli import run

PLAIN = Namespace()
TENANTED = Namespace(tenanted=True)


def policies(tmp_path: Path, text: str, namespace: Namespace = PLAIN) -> Policies:
    file = tmp_path / "queues.toml"
    file.write_text(text)
    return load(file, namespace)


def mistakes(tmp_path: Path, text: str | bytes, namespace: Namespace = PLAIN) -> list[str]:
    """What is said of the file, without the directory."""
    file = tmp_path / "queues.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MistakesError) as caught:
        load(file, namespace)
    return [str(each).removeprefix(f"{tmp_path}/") for each in caught.value.mistakes]


def test_every_key_is_read(tmp_path):
    """A table with all keys becomes a policy with all fields; a queue without a table has the defaults."""
    text = """
        [queues.emails]
        format = "raw"
        ttl = 0.5
        lease = 90
        max_attempts = 3
        retry = "head"
        dead_letter = "graveyard"
        max_bytes = 10
        duplicates_ok = true
        key = "ns:emails"
    """
    found = policies(tmp_path, text)
    assert found.of("", "emails") == Policy(
        format=Format.RAW,
        ttl_s=0.5,
        lease_s=90.0,
        max_attempts=3,
        retry=Retry.HEAD,
        dead_letter="graveyard",
        max_bytes=10,
        duplicates_ok=True,
        key="ns:emails",
    )
    assert found.of("", "emails2") is DEFAULT
    assert load(None, PLAIN).of("", "emails") is DEFAULT
    assert policies(tmp_path, "").of("", "emails") is DEFAULT


ORDER = [
    ('[queues."*"]\nmax_bytes = 1\n[queues.emails]\nmax_bytes = 2', "", "emails", 2),
    ('[queues."e*"]\nmax_bytes = 1\n[queues."em*"]\nmax_bytes = 2\n[queues."*"]\nmax_bytes = 3', "", "emails", 2),
    ('[queues."e*"]\nmax_bytes = 1\n[queues."*s"]\nmax_bytes = 2', "", "emails", 1),
    ('[queues."*s"]\nmax_bytes = 1\n[queues."e*"]\nmax_bytes = 2', "", "emails", 1),
    ('[queues."email?"]\nmax_bytes = 1\n[queues."*"]\nmax_bytes = 2', "", "emails2", 2),
    ('[queues.emails]\nmax_bytes = 1\n[queues."a/emails"]\nmax_bytes = 2', "a", "emails", 2),
    ('[queues.emails]\nmax_bytes = 1\n[queues."a/emails"]\nmax_bytes = 2', "b", "emails", 1),
    ('[queues.emails]\nmax_bytes = 1\n[queues."a/*"]\nmax_bytes = 2', "a", "emails", 1),
    ('[queues."emai*"]\nmax_bytes = 1\n[queues."a/*"]\nmax_bytes = 2', "a", "emails", 2),
    ('[queues."a*/emails"]\nmax_bytes = 1\n[queues."ab/emails"]\nmax_bytes = 2', "ab", "emails", 2),
    ('[queues.emails]\nmax_bytes = 1\n[queues."a*/emails"]\nmax_bytes = 2', "ab", "emails", 2),
    ('[queues."a*/e*"]\nmax_bytes = 1\n[queues."ab*/e*"]\nmax_bytes = 2', "abc", "emails", 2),
]


@pytest.mark.parametrize(("text", "tenant", "queue", "limit"), ORDER)
def test_the_most_specific_table_applies(tmp_path, text, tenant, queue, limit):
    """Queue's name, tenant's name, literal characters, order in the file: the first difference decides."""
    namespace = TENANTED if tenant else PLAIN
    assert policies(tmp_path, text, namespace).of(tenant, queue).max_bytes == limit


def test_nothing_is_inherited(tmp_path):
    """The table that applies is the whole policy."""
    found = policies(tmp_path, '[queues."*"]\nttl = 5\n[queues.emails]\nlease = 9')
    assert found.of("", "emails") == Policy(lease_s=9.0)


WRONG = [
    ('[queues.emails]\nformat = "xml"', '2: queues.emails.format: \'xml\' is not "json" or "raw"'),
    ("[queues.emails]\n\n# soon\nttl = 0", "4: queues.emails.ttl: 0 is not seconds from 0.001 to 315360000"),
    ("[queues.emails]\nttl = nan", "2: queues.emails.ttl: nan is not seconds"),
    ("[queues.emails]\nttl = inf", "2: queues.emails.ttl: inf is not seconds"),
    ("[queues.emails]\nttl = true", "2: queues.emails.ttl: True is not seconds"),
    ('[queues.emails]\nlease = "60"', "2: queues.emails.lease: '60' is not seconds from 1 to 43200"),
    ("[queues.emails]\nmax_attempts = 1.0", "2: queues.emails.max_attempts: 1.0 is not a whole number"),
    ("[queues.emails]\nmax_bytes = 0", "2: queues.emails.max_bytes: 0 is not a whole number of bytes"),
    ('[queues.emails]\nretry = ["head"]', '2: queues.emails.retry: [\'head\'] is not "head" or "tail"'),
    ('[queues.emails]\ndead_letter = "a__b"', "2: queues.emails.dead_letter: 'a__b' is not a queue's name"),
    ("[queues.emails]\nduplicates_ok = 1", "2: queues.emails.duplicates_ok: 1 is not true or false"),
    ("[queues.emails]\nfromat = 1", "2: queues.emails.fromat: unknown; allowed are format, ttl, lease"),
    ("queues.emails.ttl = 0", "1: queues.emails.ttl: 0 is not"),
    ("[queues]\nemails = { ttl = 0 }", "2: queues.emails.ttl: 0 is not"),
    ("[queues]\nemails = 5", "2: queues.emails: 5 is not a table; write [queues.emails]"),
    ("queues = 5", "1: queues: not a table"),
    ("[queue.emails]", "1: queue: unknown; the file may hold only [queues.NAME] tables"),
    ('[queues."a b"]', "1: queues.a b: 'a b' is not a queue name"),
    ("[queues.dead]", "1: queues.dead: 'dead' is a reserved queue name"),
    ('[queues."a b*"]', "1: queues.a b*: 'a b*' is not a pattern"),
    ('[queues."t/emails"]', "1: queues.t/emails: names a tenant, but this deployment has no tenants"),
    ('[queues."i*"]\nkey = "x"', "2: queues.i*.key: 'x' is in a table for several queues"),
    ('[queues.a]\nkey = "x:y"\n[queues.b]\nkey = "x:y"', "4: queues.b.key: 'x:y' is already the key of queues.a"),
    ('[queues.a]\nkey = "b"', "2: queues.a.key: 'b' is already the key of the queue 'b'"),
    ('[queues.a]\nttl = 5\ndead_letter = "a"', "3: queues.a.dead_letter: 'a' is this queue itself"),
    (
        '[queues.a]\nkey = "_kestrel-gateway__pause"',
        "2: queues.a.key: '_kestrel-gateway__pause' is the key of an internal queue",
    ),
    ('[queues.a]\nkey = "b__dead"', "2: queues.a.key: 'b__dead' ends like the key of a dead-letter queue"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_a_mistake_is_named(tmp_path, text, expected):
    """File, line, key, value, and what is allowed."""
    (found,) = mistakes(tmp_path, text)
    assert found.startswith(f"queues.toml:{expected}")


def test_what_is_not_toml_is_told(tmp_path):
    """With the place where the parser stopped."""
    (found,) = mistakes(tmp_path, "[queues.a]\nttl = ")
    assert found == "queues.toml: is not TOML: Invalid value (at end of document)"


@pytest.mark.parametrize("key", ["", "a b", "a/b", "a+b", "a.b", "a~b", "a\nb", "ü", "x" * (MAX_OWN_KEY + 1)])
def test_a_key_that_kestrel_would_not_take_is_a_mistake(tmp_path, key):
    """Nothing that Kestrel reads as option, fanout or command can be a key."""
    (found,) = mistakes(tmp_path, f"[queues.a]\nkey = {json.dumps(key)}")
    assert "is not 1 to 128 visible ASCII characters other than / + . ~" in found


TENANT_KEYS = [
    ('[queues.a]\nkey = "x"', "would be shared by all tenants"),
    ('[queues."*/a"]\nkey = "x"', "several queues"),
    ('[queues."t/a"]\nkey = "u__a"', "is already the key of the queue 'u/a'"),
    ('[queues."t/a"]\nkey = "u__a+child"', "is not 1 to 128 visible ASCII characters"),
]


@pytest.mark.parametrize(("text", "expected"), TENANT_KEYS)
def test_a_key_never_reaches_another_tenant(tmp_path, text, expected):
    """A queue's `key` cannot be that of another tenant's queue."""
    (found,) = mistakes(tmp_path, text, TENANTED)
    assert expected in found


def test_all_mistakes_are_told_at_once(tmp_path):
    """By line, however many there are."""
    text = '[queues.a]\nttl = 0\nlease = 0\n[queues."b c"]\nformat = 1\n[other]\n'
    assert [re.match(r"queues\.toml:(\d)", each)[1] for each in mistakes(tmp_path, text)] == ["2", "3", "4", "5", "6"]


LINES = [
    ('[queues.a]\n# ttl=1\nlease="""\nttl=0\n"""\nttl=0\n', [3, 6]),
    ("[queues.a]\nlease = '''\n[queues.b]\nttl = 0'''\nttl = 0\n", [2, 5]),
    ("[queues.a]\nlease = [\n\"]\", # ]\n'[',\n]\nttl = 0", [2, 6]),
    ('[queues.a]\nlease = ["#\\"]", "]"]\nttl = 0', [2, 3]),
    ('[queues.a]\nlease = """"#\\""""""\nttl = 0', [2, 3]),
    ('[queues.a]\r\n\r\n# """\r\nttl = 0\r\nlease = """\r\n"""\r\nkey = 1', [4, 5, 7]),
    ('[queues."a]"] # [queues.b]\nttl = 0', [1, 2]),
]


@pytest.mark.parametrize(("text", "lines"), LINES)
def test_lines_are_right_beside_whatever_has_several(tmp_path, text, lines):
    """Strings and arrays of several lines, with what looks like TOML in them, count by where they begin."""
    assert [int(each.split(":")[1]) for each in mistakes(tmp_path, text.encode())] == lines


def test_a_pattern_may_name_a_queue_that_it_covers(tmp_path):
    """`dead_letter` of a table for many queues is not its own; that one queue keeps its own dead letters."""
    assert policies(tmp_path, '[queues."*"]\ndead_letter = "failed"').of("", "failed").dead_letter == "failed"


def test_a_file_that_is_not_text_is_told(tmp_path):
    """Broken UTF-8 is a mistake with its line."""
    assert mistakes(tmp_path, b"[queues.a]\nkey = '\xff'") == ["queues.toml:2: is not UTF-8"]


def test_a_file_that_is_missing_is_told(tmp_path):
    """As is a directory."""
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(MistakesError, match="cannot be read"):
            load(path, PLAIN)


def test_an_own_key_outside_the_namespace_is_fine(tmp_path):
    """A key that no name of the deployment makes may be any queue's."""
    found = policies(tmp_path, '[queues.a]\nkey = "b"\n[queues.c]\nkey = "c"', Namespace("ns"))
    assert found.of("", "a").key == "b"


def test_check_prints_every_mistake_and_serve_the_same(tmp_path):
    """`check` ends with 1, `serve` with 2 and starts nothing; a good file is said to be good."""
    file = tmp_path / "queues.toml"
    file.write_text("[queues.a]\nttl = 0\nlaese = 5\n")
    checked = run("check", "--queues", str(file))
    served = run("serve", "--queues", str(file), "--data", str(tmp_path / "data"), "--port", "0")
    assert (checked.returncode, served.returncode) == (1, 2)
    lines = checked.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == [f"{file}:2", f"{file}:3"]
    assert served.stderr.splitlines() == lines
    assert not (tmp_path / "data").exists()
    file.write_text("[queues.a]\nttl = 5\n")
    assert run("check", "--queues", str(file)).returncode == 0
    assert run("check", KESTREL_GATEWAY_QUEUES=str(tmp_path / "none")).returncode == 1
    assert run("check").returncode == 2, "there is nothing to check"


def test_the_table_in_the_docs_is_the_code(root):
    """docs/policies.md names each key and what it may hold."""
    table = (root / "docs" / "policies.md").read_text().split("<!-- keys -->")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "| `" in line]
    assert [(row[0], row[1]) for row in rows] == [(f"`{key}`", rule.allowed) for key, rule in RULES.items()]


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_globs_match_as_patterns_do(pattern, name):
    """The linear matcher agrees with the regular expression that says the same."""
    expression = pattern.replace("*", ".*").replace("?", ".")
    assert glob.matches(pattern, name) == bool(re.fullmatch(expression, name))
