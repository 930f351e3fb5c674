"""Keys: the file and its mistakes, what each key may do and how often, and reading the file again at run time."""

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import time

import httpx
import pytest

from gateway.api.access.admission import MOST_PRESENTED, Admission, Bucket
from gateway.api.access.caller import Caller
from gateway.config.keys import Scope, load, new
from gateway.config.toml_file import MistakesError
from gateway.errors import ForbiddenQueue, ForbiddenScope, RateLimited, Unauthenticated
from tests.api.keyring import Keyring
from tests.lab import plain
from tests.lab.commands import NOWHERE, Commands
from tests.lab.gateway import running
from tests.lab.http import AsyncHttp
from tests.lab.processes import children_of
from tests.lab.waiting import until
from tests.lab.workers import client_of_each
from tests.lab.yaml_text import parse_yaml

COMMANDS = Commands("")
DIGEST = hashlib.sha256(b"secret").hexdigest()
GOOD = f'[[keys]]\nname = "shop"\nsha256 = "{DIGEST}"\ntenant = "acme"\nscopes = ["produce"]\n'

CALLS = {
    "produce": [("POST", "/queues/q/jobs")],
    "consume": [
        ("GET", "/queues/q/next?timeout=0"),
        ("GET", "/leases/x"),
        ("POST", "/leases/x/ack"),
        ("POST", "/leases/x/nack"),
        ("POST", "/leases/x/extend"),
    ],
    "admin": [
        ("GET", "/queues/q/peek"),
        ("POST", "/queues/q/flush"),
        ("DELETE", "/queues/q"),
    ],
}


@pytest.fixture(scope="module")
def keyring(tmp_path_factory):
    ring = Keyring(tmp_path_factory.mktemp("keys") / "keys.toml")
    for scope in CALLS:
        ring.add(scope, "acme", scope)
    ring.add("all", "acme")
    ring.add("mails", "acme", queues=("emails", "img-*"))
    ring.add("slow", "acme", rate=0.5)
    ring.add("working", "acme", rate=1)
    ring.add("root", scopes="operator")
    return ring


@pytest.fixture(scope="module")
def keyed(keyring, tmp_path_factory):
    """A gateway with keys, that listens on every address."""
    with running(
        tmp_path_factory.mktemp("keyed") / "data", "--keys", str(keyring.path), "--host", "0.0.0.0"
    ) as gateway:
        yield gateway


# The file


def mistakes_of(tmp_path, text):
    path = tmp_path / "keys.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MistakesError) as caught:
        load(path)
    return [str(each).removeprefix(f"{path}:").removeprefix(str(path)) for each in caught.value.mistakes]


MISTAKES = [
    ("", r"has no \[\[keys\]\] table"),
    ("[[keys]", r"is not TOML"),
    (b"\xff", "is not UTF-8"),
    ("keys = 7", "1: keys is not an array of tables"),
    ("[other]", "other is unknown"),
    (GOOD + "colour = 1", r"6: keys\[1\]\.colour is unknown; allowed are name, sha256, tenant"),
    (GOOD.replace("shop", "a b"), r"2: keys\[1\]\.name 'a b' is not 1 to 64 letters"),
    (GOOD.replace('name = "shop"\n', ""), r"1: keys\[1\]\.name is missing"),
    (GOOD.replace(DIGEST, "kg_thesecret"), r"3: keys\[1\]\.sha256 is not 64 hex digits \(the value is not shown\)"),
    (GOOD.replace('"acme"', '"a__b"'), r"4: keys\[1\]\.tenant 'a__b' is not a tenant name"),
    (GOOD.replace('"acme"', "7"), r"4: keys\[1\]\.tenant 7 is not a string"),
    (GOOD.replace('["produce"]', "[]"), r"5: keys\[1\]\.scopes \[\] is empty; give at least one of produce"),
    (GOOD.replace('["produce"]', '"produce"'), r"5: keys\[1\]\.scopes 'produce' is not an array; give at least"),
    (GOOD.replace('"produce"', '"root"'), r"5: keys\[1\]\.scopes 'root' is not one of produce, consume, admin"),
    (GOOD.replace('"produce"', "[1]"), r"5: keys\[1\]\.scopes \[1\] is not one of"),
    (GOOD.replace('"produce"', '"operator"'), r"5: keys\[1\]\.scopes 'operator' covers the whole deployment"),
    (GOOD.replace('"acme"', '"*"'), r"4: keys\[1\]\.tenant '\*' is allowed only with scopes = \[\"observe\"\]"),
    (GOOD + 'queues = ["a b"]', r"6: keys\[1\]\.queues 'a b' is not a pattern"),
    (GOOD + "queues = []", r"6: keys\[1\]\.queues \[\] is not an array of 1 to 100"),
    (GOOD + "rate = 0", r"6: keys\[1\]\.rate 0 is not a number of requests a second"),
    (GOOD + "rate = nan", r"6: keys\[1\]\.rate nan is not a number"),
    (GOOD + "rate = true", r"6: keys\[1\]\.rate True is not a number"),
    (GOOD + "rate = 1\nburst = 0", r"7: keys\[1\]\.burst 0 is not a whole number from 1"),
    (GOOD + "burst = 5", r"6: keys\[1\]\.burst needs a rate"),
    (GOOD + GOOD.replace(DIGEST, "0" * 64), r"7: keys\[2\]\.name 'shop' is already the name of another key"),
    (GOOD + GOOD.replace("shop", "b"), r"8: keys\[2\]\.sha256 is already the digest of another key"),
    (
        GOOD.replace('"produce"', "1") + GOOD.replace(DIGEST, "0" * 64),
        r"7: keys\[2\]\.name 'shop' is already the name of another key",
    ),
    (GOOD + GOOD.replace("acme", "a__b"), r"8: keys\[2\]\.sha256 is already the digest of another key"),
    (GOOD.replace('["produce"]', '[\n"produce", # ]\n"x"]') + "rate = 0", r"8: keys\[1\]\.rate 0 is not a number"),
    (GOOD.replace('"shop"', "'''\n[[keys]]'''") + "rate = 0", r"7: keys\[1\]\.rate 0 is not a number"),
    ("# keys\nkeys = [\n{ name = 'a b' },\n]", r"2: keys\[1\]\.name 'a b' is not 1 to 64 letters"),
    (
        GOOD + f'[[keys]]\nname = "b"\nsha256 = "{"0" * 64}"\nscopes = ["admin"]',
        r"6: keys\[2\]\.tenant is missing; give every key a tenant, or no key",
    ),
]


def test_a_mistake_is_named(tmp_path):
    """Line, key, value and what is allowed; the value of a digest is not shown, it may be the secret itself."""
    for text, expected in MISTAKES:
        found = mistakes_of(tmp_path, text)
        assert re.search(expected, "\n".join(found)), found
        assert "thesecret" not in "".join(found)


def test_every_mistake_is_found(tmp_path):
    """All of them, by line."""
    text = GOOD.replace("shop", "").replace("produce", "x") + "rate = -1"
    assert [each.split(":")[0] for each in mistakes_of(tmp_path, text)] == ["2", "5", "6"]


def test_a_file_that_is_not_there(tmp_path):
    """It is a mistake, too."""
    with pytest.raises(MistakesError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")


def test_what_a_good_file_means(tmp_path):
    """Tenants as the keys say; operators alone and an empty list say nothing of tenants."""
    path = tmp_path / "keys.toml"
    every = GOOD.replace('"acme"', '"*"').replace("produce", "observe").replace("shop", "m").replace(DIGEST, "B" * 64)
    operator = f'[[keys]]\nname = "root"\nsha256 = "{"A" * 64}"\nscopes = ["operator"]\n'
    for text, tenanted in (
        (GOOD, True),
        (GOOD + operator, True),
        (GOOD + every, True),
        (GOOD.replace('tenant = "acme"\n', "") + every, False),
        (every, None),
        (GOOD.replace('tenant = "acme"\n', ""), False),
        (operator, None),
        ("keys = []", None),
    ):
        path.write_text(text)
        assert load(path).tenanted is tenanted
    path.write_text(GOOD + "rate = 2.5")
    key = load(path).find(b"secret")
    assert (key.name, key.tenant, key.scopes, key.rate, key.burst) == ("shop", "acme", {Scope.PRODUCE}, 2.5, 3)
    assert load(path).find(b"Secret") is None


def test_a_new_key_works(tmp_path):
    """`keys new` prints a secret and the table that lets it in; what it prints is a file of keys as it is."""
    flags = ("--name", "shop", "--tenant", "acme", "--scope", "produce", "--scope", "consume")
    made = COMMANDS.text("keys", "new", *flags, "--queue", "img-*", "--rate", "5")
    secret, _, table = made.partition("\n\n")
    assert re.fullmatch(r"kg_[A-Za-z0-9_-]{43}", secret)
    assert secret not in table
    path = tmp_path / "keys.toml"
    path.write_text(table)
    key = load(path).find(secret.encode())
    assert (key.name, key.tenant, key.queues, key.rate) == ("shop", "acme", ("img-*",), 5)
    assert key.scopes == {Scope.PRODUCE, Scope.CONSUME}


def test_a_rate_is_requests_a_second():
    """The help and the refusal say so, and not that it is a time."""
    told = COMMANDS.text("keys", "new", "--help")
    assert re.search(r"--rate REQUESTS\s+maximum number of requests a second", told)
    done = COMMANDS("keys", "new", "--name", "a", "--scope", "admin", "--rate", "x")
    assert (done.returncode, b"'x' is not a number of requests a second" in done.stderr) == (2, True)


@pytest.mark.parametrize("flags", [["--scope", "x"], ["--scope", "operator", "--tenant", "a"], []])
def test_a_new_key_that_cannot_be(flags):
    """Exit code 2 and one line."""
    done = COMMANDS("keys", "new", "--name", "shop", *flags)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


def test_a_bad_file_at_the_start(tmp_path):
    """One line a mistake, exit code 2; nothing is served."""
    path = tmp_path / "keys.toml"
    path.write_text(GOOD.replace("produce", "x"))
    done = COMMANDS("serve", "--port", "0", *NOWHERE, "--keys", str(path))
    assert done.returncode == 2
    assert done.stderr.decode() == (
        f"kestrel-gateway: {path}:5: keys[1].scopes 'x' is not one of produce, consume, admin, observe, operator\n"
    )


# Who is let in


def test_without_a_key_nothing_is_served(keyed):
    """Every call that needs a scope is a 401 that says how; what is for everyone is served."""
    with keyed.client() as http:
        for method, path in (call for calls in CALLS.values() for call in calls):
            answer = http.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), path
            assert answer.headers["www-authenticate"] == 'Bearer realm="kestrel-gateway"'
        for path in ("/", "/livez", "/readyz", "/openapi.json", "/openapi.yaml", "/problems/not-found"):
            assert http.get(path).status_code == 200
        document = http.get("/openapi.json").json()
        assert document["paths"]["/queues/{queue}/jobs"]["post"]["security"] == [{"key": ["produce"]}]


def test_the_information_at_the_root_needs_no_key_and_names_no_server(keyed):
    """Whoever may not list the servers learns nothing of them but what is missing."""
    with keyed.client() as http:
        answer = http.get("/", headers={"accept": "*/*"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json()["missing"] == []
        assert ".sock" not in answer.text
        assert http.get("/?x=1").status_code == 400


def test_documentation_names_what_needs_no_key(root):
    """docs/security.md names each GET that openapi.yaml leaves open, and no other path."""
    text = " ".join((root / "docs" / "security.md").read_text().split())
    named = text.split("except `GET` of ")[1].split(". ")[0]
    paths = parse_yaml((root / "openapi.yaml").read_text())["paths"]
    unkeyed = {path for path, calls in paths.items() if calls.get("get", {}).get("security") == []}
    assert set(re.findall("`([^`]+)`", named)) == unkeyed | {"/ui/", "/docs"}


def test_the_page_and_the_reference_need_no_key(keyed):
    """Nor do their files, as the document says; what has data does."""
    with keyed.client() as http:
        for path in ("/ui/", "/ui/app.js", "/docs"):
            assert http.get(path).status_code == 200, path
        for path in ("/ui/session", "/ui/feed", "/ui/history"):
            assert http.get(path).status_code == 401, path


def test_documentation_says_who_reads_policies_and_leases(root):
    """The rows of observe and operator name them as openapi.yaml does."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", (root / "docs" / "security.md").read_text(), re.MULTILINE))
    paths = parse_yaml((root / "openapi.yaml").read_text())["paths"]
    for path, word in (("/queues/{queue}/leases", "open leases"), ("/queues/{queue}/policy", "policies")):
        scopes = {scope for each in paths[path]["get"]["security"] for scope in each["key"]}
        assert scopes & set(rows) == {scope for scope, row in rows.items() if word in row} | (
            scopes & {"admin", "consume"}
        )
        assert {"observe", "operator"} <= scopes


@pytest.mark.parametrize(
    "value",
    ["Bearer", "Bearer wrong", "Basic SECRET", "SECRET", "Bearer SECRET x", "Bearer SECRETx", "Bearer \xff"],
)
def test_what_is_no_key_is_refused(keyed, keyring, value):
    """A wrong scheme, form or secret is a 401 with `invalid_token`."""
    value = value.replace("SECRET", keyring.secrets["all"])
    with keyed.client() as http:
        answer = http.get("/queues", headers=[(b"Authorization", value.encode("latin-1"))])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="kestrel-gateway", error="invalid_token"'


def test_two_keys_are_none(keyed, keyring):
    """Two Authorization headers are refused, whichever of them is good; the scheme's case does not matter."""
    good = ("Authorization", f"bearer {keyring.secrets['all']}")
    with keyed.client() as http:
        assert http.get("/queues", headers=[good]).status_code == 200
        assert http.get("/queues", headers=[good, good]).status_code == 401


@pytest.mark.parametrize("scope", CALLS)
def test_a_scope_covers_its_calls_and_no_others(keyed, keyring, scope):
    """A key with one scope gets a 403 from every call of the others, which says which scope is missing."""
    with keyring.client(keyed, scope) as http:
        for path in ("/queues", "/queues/q"):
            answer = http.get(path)
            if scope == "admin":
                assert answer.status_code not in {401, 403}
            else:
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden-scope")
                assert "the scope 'observe' or 'admin' or 'operator'" in answer.json()["detail"]
                assert 'scope="observe"' in answer.headers["www-authenticate"]
        for other, calls in CALLS.items():
            for method, path in calls:
                answer = http.request(method, path)
                if other == scope:
                    assert answer.status_code not in {401, 403}, (method, path)
                else:
                    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden-scope"), (method, path)
                    assert f'scope="{other}"' in answer.headers["www-authenticate"]


def test_an_operator_has_no_queues(keyed, keyring):
    """The deployment's key may not touch any tenant's queue; it may read figures (test_observe.py)."""
    with keyring.client(keyed, "root") as http:
        for method, path in (call for calls in CALLS.values() for call in calls):
            assert http.request(method, path).status_code == 403


def test_a_key_for_some_queues(keyed, keyring):
    """Other queues are a 403, whether they exist or not; they are not listed, and their leases are unknown."""
    with keyring.client(keyed, "all") as http, keyring.client(keyed, "mails") as some:
        for name in ("other", "img-7", "emails"):
            assert http.post(f"/queues/{name}/jobs", content=name).status_code == 201
        told = [some.get(f"/queues/{name}/next?timeout=0") for name in ("other", "never")]
        assert {each.status_code for each in told} == {403}
        assert told[0].json()["code"] == "forbidden-queue"
        bodies = [each.json() | {"request_id": ""} for each in told]
        assert bodies[0]["detail"].replace("other", "never") == bodies[1]["detail"]
        assert [each["queue"] for each in some.get("/queues").json()["queues"]] == ["emails", "img-7"]
        assert some.post("/queues/img-7/jobs", content=b"x").status_code == 201
        foreign = http.get("/queues/other/next").json()["lease"]["url"]
        own = http.get("/queues/emails/next").json()["lease"]["url"]
        for call in (some.get, *(lambda url, verb=verb: some.post(f"{url}/{verb}") for verb in ("ack", "nack"))):
            assert call(foreign).json()["code"] == "lease-not-found"
        assert some.post(f"{foreign}/extend", json={"lease": 5}).status_code == 404
        assert some.get(own).status_code == 200
        assert some.post(f"{own}/ack").status_code == 204
        assert http.post(f"{foreign}/ack").status_code == 204


def test_a_rate_is_kept(keyed, keyring):
    """Beyond its rate a key gets 429 with the time after which to retry; other keys are not slowed down."""
    with keyring.client(keyed, "slow") as slow, keyring.client(keyed, "all") as http:
        assert slow.get("/queues").status_code == 200
        answer = slow.get("/queues")
        assert (answer.status_code, answer.json()["code"]) == (429, "rate-limited")
        assert answer.headers["retry-after"] in {"1", "2"}
        assert answer.json()["retryable"] is True
        assert http.get("/queues").status_code == 200


def test_hosts_and_pages_are_free_with_keys(keyed, keyring):
    """With keys any Host is served, and a foreign page is nobody without one; it gets no CORS headers."""
    page = {"host": "jobs.example", "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    with keyed.client(headers=page) as http:
        assert http.get("/queues").status_code == 401
        answer = http.get("/queues", headers=keyring.bearer("all"))
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]
        preflight = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
        assert http.options("/queues", headers=preflight).status_code == 405


def test_no_secret_is_logged(keyed, keyring):
    """The log names keys, and no secret, good or bad."""
    with keyring.client(keyed, "all") as http:
        http.get("/queues")
        http.get("/queues", headers={"Authorization": "Bearer guessed-secret"})
        http.get("/queues", headers={"Authorization": "Bearer bad form"})
    log = keyed.log.read_text()
    assert "key=all" in log
    assert not [secret for secret in (*keyring.secrets.values(), "guessed-secret", "bad form") if secret in log]


# The parts


def test_a_bucket_fills_at_its_rate():
    """`burst` at once, then `rate` a second; time that was not used counts up to the burst only."""
    bucket = Bucket(rate=2, burst=3, now_s=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take(100.4) == pytest.approx(0.1)
    assert bucket.take(100.5) == 0
    assert [bucket.take(1000.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_work_counts_as_requests():
    """What was let in is paid for afterwards, also beyond what was left."""
    bucket = Bucket(rate=2, burst=3, now_s=100.0)
    assert bucket.take(100.0) == 0
    bucket.charge(10)
    assert bucket.take(100.0) == pytest.approx(4.5)
    assert bucket.take(104.5) == 0


def test_a_large_body_counts_as_several_requests(keyed, keyring):
    """And so does a large answer."""
    with keyring.client(keyed, "working") as http:
        assert http.post("/queues/work/jobs", content=b"x" * (1 << 20)).status_code == 201
        refused = http.get("/queues/work/peek")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
        assert int(refused.headers["retry-after"]) in {4, 5}
        time.sleep(int(refused.headers["retry-after"]))
        assert http.get("/queues/work/peek").status_code == 200
        assert http.get("/queues/work/peek").status_code == 429


def test_admission_swaps_its_keys(tmp_path):
    """After `replace` the new keys count and the old do not; a limit that did not change is not refilled."""
    ring = Keyring(tmp_path / "keys.toml")
    ring.add("kept", rate=1.0)
    ring.add("gone")
    now = [0.0]
    admission = Admission(load(ring.path), lambda: now[0])

    def admit(name, scope=Scope.ADMIN):
        caller = admission.identify([(b"authorization", b"Bearer " + ring.secrets[name].encode())], [scope])
        admission.admit(caller, [scope])
        return caller

    assert admit("gone") == Caller("gone", "", frozenset({Scope.PRODUCE, Scope.CONSUME, Scope.ADMIN}))
    admit("kept")
    ring.remove("gone")
    ring.add("fresh", scopes="produce")
    admission.replace(load(ring.path))
    with pytest.raises(Unauthenticated):
        admit("gone")
    with pytest.raises(RateLimited) as limited:
        admit("kept")
    assert limited.value.retry_after_s == 1
    with pytest.raises(ForbiddenScope):
        admit("fresh")
    assert admit("fresh", Scope.PRODUCE).name == "fresh"
    admission.replace(load(ring.path))
    now[0] = 1.0
    assert admit("kept").name == "kept"


def test_a_known_key_is_no_excuse(tmp_path):
    """A key that was presented before has one caller in every spelling, is refused when it is sent twice, and has the
    scopes of the file that was read last. Spellings are not kept without end."""
    ring = Keyring(tmp_path / "keys.toml")
    ring.add("one", scopes="produce")
    admission = Admission(load(ring.path))
    secret = ring.secrets["one"].encode()
    headers = [(b"accept", b"*/*"), (b"authorization", b"Bearer " + secret)]
    first = admission.identify(headers, [Scope.PRODUCE])
    assert admission.identify(headers, [Scope.PRODUCE]) is first
    for spaces in range(1, MOST_PRESENTED + 2):
        spelling = b"bearer" + b" " * spaces + secret
        assert admission.identify([(b"authorization", spelling)], [Scope.PRODUCE]) is first
    assert len(admission.presented) <= MOST_PRESENTED
    for values in ([headers[1], headers[1]], [(b"authorization", b"Bearer " + secret + b"x")], [headers[0]]):
        with pytest.raises(Unauthenticated):
            admission.identify(values, [Scope.PRODUCE])
    assert admission.identify(headers, [Scope.PRODUCE]) is first
    ring.remove("one")
    ring.add("other", scopes="produce")
    admission.replace(load(ring.path))
    with pytest.raises(Unauthenticated):
        admission.identify(headers, [Scope.PRODUCE])


def test_patterns_are_of_linear_cost():
    """A pattern made to be slow is not."""
    caller = Caller("k", "", frozenset(), ("*a" * 31 + "b",))
    began = time.thread_time()
    with pytest.raises(ForbiddenQueue):
        caller.check_queue("a" * 64)
    assert time.thread_time() - began < 0.1


def test_new_secrets_differ():
    """Two keys never share a secret, though everything else is alike."""
    assert len({new("a", "", ["produce"])[0] for _ in range(100)}) == 100


# While it runs


def status(http, ring, name):
    """What a request with that key gets."""
    return http.get("/queues", headers=ring.bearer(name)).status_code


def test_keys_change_without_a_restart(tmp_path):
    """After SIGHUP both workers know the new key and forget the removed one; no request and no parked poll is cut."""
    ring = Keyring(tmp_path / "keys.toml")
    ring.add("old", "acme")
    ring.add("stays", "acme")
    flags = ("--keys", str(ring.path), "--workers", "2")
    queues = [f"parked{number}" for number in range(8)]

    async def ask(http, name, *request):
        """The status of a request."""
        return (await http.ask(*request, headers=f"Authorization: Bearer {ring.secrets[name]}\r\n"))[0]

    async def busy(http, stop):
        """Asks until stopped; every answer must be a 200."""
        count = 0
        while not stop.is_set():
            assert await ask(http, "stays", "GET", "/queues") == 200
            await asyncio.sleep(0.005)  # for each of the four, so that the load is 800 requests a second at most
            count += 1
        return count

    async def scenario(gateway, both):
        stop = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:

            def connection():
                http = AsyncHttp(gateway.port)
                stack.callback(http.close)
                return http

            load_tasks = [tasks.create_task(busy(connection(), stop)) for _ in range(4)]
            paths = [f"/queues/{queue}/next?timeout=20" for queue in queues]
            polls = [tasks.create_task(ask(connection(), "old", "GET", path)) for path in paths]
            await asyncio.to_thread(until, lambda: parked(both[0]) == 8)
            ring.add("new", "acme")
            ring.remove("old")
            await asyncio.to_thread(reload, gateway)
            assert [status(http, ring, "new") for http in both] == [200] * 2
            assert [status(http, ring, "old") for http in both] == [401] * 2
            for queue in queues:
                assert both[0].post(f"/queues/{queue}/jobs", json=1, headers=ring.bearer("new")).status_code == 201
            assert [await each for each in polls] == [200] * 8
            stop.set()
        assert all(task.result() > 0 for task in load_tasks)

    def parked(http):
        """How many queues have a poll that waits."""
        return len(http.get("/queues?filter=waiters>0").json()["queues"])

    def reload(gateway):
        done = gateway.log.read_text().count("reload: ended")
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: gateway.log.read_text().count("reload: ended") >= done + 2)

    with running(tmp_path / "data", *flags) as gateway:
        with client_of_each(gateway, 2, headers=ring.bearer("stays")) as both:
            for queue in queues:
                both[0].get(f"/queues/{queue}/next?timeout=0")
            asyncio.run(scenario(gateway, both))


@pytest.fixture(scope="module")
def changing(tmp_path_factory):
    """A gateway, its keys and their file's content, which tests change and put back."""
    ring = Keyring(tmp_path_factory.mktemp("changing") / "keys.toml")
    ring.add("good", "acme")
    with running(ring.path.parent / "data", "--keys", str(ring.path)) as gateway:
        yield gateway, ring, ring.path.read_text()


def test_a_bad_file_changes_nothing(changing):
    """A file with mistakes, no file, and one that adds or removes tenants: an error, and the old keys stay."""
    gateway, ring, content = changing
    with gateway.client() as http:

        def reload(expected):
            count = gateway.log.read_text().count("reload: ended")
            gateway.process.send_signal(signal.SIGHUP)
            until(lambda: gateway.log.read_text().count("reload: ended") > count)
            assert expected in gateway.log.read_text()
            assert status(http, ring, "good") == 200

        ring.path.write_text(content + "colour = 1")
        reload("keys.toml:6: keys[1].colour is unknown")
        ring.path.write_text(content.replace('tenant = "acme"\n', ""))
        reload("keys had a tenant at the start; restart the gateway to change that")
        ring.path.unlink()
        reload("keys.toml: cannot be read: No such file or directory")
        ring.path.write_text("keys = []")
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: status(http, ring, "good") == 401)
        ring.path.write_text(content)
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: status(http, ring, "good") == 200)
        assert "Traceback" not in gateway.log.read_text()


def test_a_worker_that_starts_later_keeps_to_the_tenants(changing):
    """A worker killed after the file lost its tenants does not serve other Kestrel keys than those before it."""
    gateway, ring, content = changing
    refusal = "restart the gateway to change that"
    ring.path.write_text(content.replace('tenant = "acme"\n', ""))
    told = gateway.log.read_text().count(refusal)
    kill_worker(gateway)
    until(lambda: gateway.log.read_text().count(refusal) > told)
    ring.path.write_text(content)
    until(lambda: served(gateway, ring))


def kill_worker(gateway):
    for pid, line in children_of(gateway.process.pid).items():
        if "gateway.process.worker" in line:
            os.kill(pid, signal.SIGKILL)


def served(gateway, ring):
    with contextlib.suppress(httpx.TransportError):
        return plain.get(gateway.url + "/queues", headers=ring.bearer("good"), timeout=1).status_code == 200
    return False
