"""The page over HTTP: its files, the redirect to it, who may read its data, and its stream of figures."""

import asyncio
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from gateway.delivery.figures.gatherer import Round
from gateway.delivery.figures.history import SAMPLES, History, Rates, rates
from gateway.fairness.turns import Turns
from gateway.queue_stats import QueueStats
from tests.api.keyring import Keyring
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import running
from tests.lab.workers import client_of_each

DIGESTS = {"uPlot-LICENSE.txt": "8f989229699b4fe2", "uPlot.css": "df630c6a8d6f8eea", "uPlot.js": "19c8d4c6ad88929a"}
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def first_events(http, count, query="", **options):
    """The data of the first events of the stream."""
    found = []
    with http.stream("GET", f"/ui/feed{query}", **options) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream"
        for line in answer.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
            if len(found) == count:
                return found
    return found


def test_a_browser_is_led_to_the_page(http):
    """From `/` and `/ui`; every other client gets what it got before."""
    for path in ("/", "/ui"):
        answer = http.get(path, headers=BROWSER)
        assert (answer.status_code, answer.headers["location"]) == (302, "ui/")
    for accept in ("*/*", "application/json", "text/html, application/json"):
        answer = http.get("/", headers={"accept": accept})
        assert (answer.status_code, answer.headers["content-type"], answer.headers["vary"]) == (
            200,
            "application/json",
            "Accept",
        )


def test_every_file_is_served_with_a_strict_policy(http, root):
    """Nothing inline, nothing from elsewhere, no frame; and a file that has not changed is not sent again."""
    for path in sorted((root / "gateway/ui/static").iterdir()):
        answer = http.get(f"/ui/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        tag = answer.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", W/{tag}', "*"):
            assert http.get(f"/ui/{path.name}", headers={"if-none-match": known}).status_code == 304
        assert http.get(f"/ui/{path.name}", headers={"if-none-match": '"other"'}).status_code == 200
    assert http.get("/ui/").text.startswith("<!doctype html>")
    assert http.get("/ui/nosuch.js").status_code == 404


def test_no_file_names_another_host(root):
    """No asset comes from elsewhere; only comments and namespaces contain a URL."""
    for path in (root / "gateway/ui/static").iterdir():
        urls = re.findall(r"https?://[^\s\"'()]+", path.read_text())
        assert [
            each for each in urls if not re.match(r"http://www\.w3\.org/|https://github\.com/leeoniya/uPlot", each)
        ] == []


def test_the_charting_library_is_its_package_unchanged(root):
    """With its licence. The digests are of uplot 1.6.32."""
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in (root / "gateway/ui/static").glob("uPlot*")
    }
    assert digests == DIGESTS


@pytest.mark.slow
def test_the_wheel_contains_the_page(root, tmp_path):
    """Every file is package data."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    source = tmp_path / "source"
    shutil.copytree(root / "gateway", source / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    subprocess.run([*command, str(source)], check=True, timeout=120)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert {f"gateway/ui/static/{path.name}" for path in (root / "gateway/ui/static").iterdir()} <= names


def test_the_reference_has_every_operation_and_schema(http):
    """Made from the contract as it is served, without a script; every link in it leads to a place in it."""
    document = http.get("/openapi.json").json()
    moved = http.get("/docs/", follow_redirects=False)
    assert (moved.status_code, moved.headers["location"]) == (302, "../docs")
    answer = http.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    ids = set(re.findall(r' id="?([\w-]+)', answer.text))
    operations = {
        each["operationId"] for path in document["paths"].values() for each in path.values() if "operationId" in each
    }
    assert operations <= ids
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= ids
    assert set(re.findall(r'href="#([\w-]+)"', answer.text)) <= ids
    assert "<script" not in answer.text


def test_a_link_from_another_site_opens_the_page_and_reads_no_data(http):
    """Following a link is no request of that site's page; a fetch by it is."""
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    for path in ("/", "/ui/", "/docs"):
        assert http.get(path, headers=BROWSER | followed).status_code in {200, 302}
        assert http.get(path, headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}).status_code == 403
    for path in ("/ui/feed", "/ui/session", "/queues"):
        assert http.get(path, headers=followed).status_code == 403


def test_the_stream_begins_with_all_queues_and_goes_on_with_changes(http):
    """With dead letters, pauses, and the filter of `GET /queues`; what is the same is not sent again."""
    for name in ("feed-a", "feed-b", "other"):
        http.post(f"/queues/{name}/jobs", json={"n": 1}).raise_for_status()
    http.put("/queues/feed-b/pause", json={}).raise_for_status()
    taken = http.get("/queues/feed-a/next?timeout=5").json()
    http.post(f"/leases/{taken['lease']['id']}/reject", json={"reason": "no"}).raise_for_status()
    with http.stream("GET", "/ui/feed?filter=name~feed-*") as answer:
        rows = {}
        lines = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))
        for event in lines:
            rows |= {row["queue"]: row for row in event["queues"]}
            if rows.get("feed-a", {}).get("dead_letters") == 1 and rows["feed-b"]["paused"]:
                break
        assert rows.keys() == {"feed-a", "feed-b"}
        assert (rows["feed-a"]["items"], rows["feed-b"]["items"]) == (0, 1)
        http.post("/queues/feed-b/jobs", json={"n": 2}).raise_for_status()
        later = next(event for event in lines if any(row["items"] == 2 for row in event["queues"]))
        assert next(row for row in later["queues"] if row["queue"] == "feed-b")["in_rate"] > 0
        assert next(event for event in lines if all(row["queue"] != "feed-a" for row in event["queues"]))
        http.delete("/queues/feed-b").raise_for_status()
        assert next(event for event in lines if event["gone"])["gone"] == ["feed-b"]


def test_every_worker_shows_the_age_of_the_oldest_job(tmp_path):
    """By the time in the job at the head, also on a queue that nobody has read: in the table and in the history, of the
    queue and of each server."""
    old = {"specversion": "1.0", "id": "a", "source": "s", "type": "t", "data": 1}
    with BrokerProcess(tmp_path / "a") as one, BrokerProcess(tmp_path / "b") as two:
        for broker, hours in ((one, 2), (two, 5)):
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - hours * 3600))
            broker.client().put("unread", json.dumps(old | {"time": at, "enqueued": at}).encode())
        flags = ("--workers", "2", "--kestrel", one.address, "--kestrel", two.address)
        with running(tmp_path / "data", *flags) as gateway, client_of_each(gateway, 2) as workers:
            for http in workers:
                (event,) = first_events(http, 1, "?filter=name=unread&filter=age>7000&servers=true")
                (row,) = event["queues"]
                assert 5 * 3600 <= row["age_s"] < 6 * 3600
                shown = {each["server"]: each["age_s"] // 3600 for each in row["servers"]}
                assert shown == {one.address: 2, two.address: 5}
                assert event["servers"] == 2
                charted = http.get("/ui/history?queue=unread").json()["age_s"]  # empty before the worker's first round
                assert min(charted, default=5 * 3600) >= 5 * 3600


def test_a_wrong_filter_is_refused_before_the_stream(http):
    """With the message of `GET /queues`."""
    answer = http.get("/ui/feed?filter=items")
    assert answer.status_code == 400
    assert "items>100" in answer.json()["detail"]
    assert http.get("/ui/feed?" + "&".join(["filter=items>1"] * 30)).status_code == 400


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A gateway with keys of two tenants."""
    folder = tmp_path_factory.mktemp("keyed")
    keyring = Keyring(folder / "keys.toml")
    for tenant in ("acme", "other"):
        keyring.add(f"{tenant}-all", tenant)
    keyring.add("watcher", "acme", "observe")
    keyring.add("web", "acme", "produce")
    keyring.add("some", "acme", "admin", queues=["a*"])
    keyring.add("ops", "", "operator")
    with running(folder / "data", "--keys", str(keyring.path)) as gateway:
        yield gateway, keyring


def test_each_key_learns_what_it_may_do(keyed):
    """And no more: the page hides the rest."""
    gateway, keyring = keyed
    with gateway.client() as http:
        assert http.get("/ui/session").status_code == 401
        assert http.get("/ui/").status_code == 200
        found = {
            name: http.get("/ui/session", headers=keyring.bearer(name)).json()
            for name in ("acme-all", "watcher", "web", "ops")
        }
    assert (found["watcher"]["key"], found["watcher"]["tenant"]) == ("watcher", "acme")
    may = {name: set(session["may"]) for name, session in found.items()}
    assert "listQueues" in may["watcher"]
    assert not {"flushQueue", "peekJob", "enqueueJob", "nextJob"} & may["watcher"]
    assert "enqueueJob" in may["web"]
    assert "listQueues" not in may["web"]
    assert "setBackendStatus" in may["ops"]
    assert "setBackendStatus" not in may["acme-all"]
    assert [name for name, session in found.items() if session["choose_tenant"]] == ["ops"]


def test_a_key_sees_the_figures_of_its_tenant_and_queues(keyed):
    """An operator names the tenant; a key without the right to look sees none."""
    gateway, keyring = keyed
    with gateway.client() as http:
        for tenant, name in (("acme", "a1"), ("acme", "b1"), ("other", "o1")):
            http.post(f"/queues/{name}/jobs", json=1, headers=keyring.bearer(f"{tenant}-all")).raise_for_status()

        def names(key, query=""):
            seen = set()
            for event in first_events(http, 2, query, headers=keyring.bearer(key)):
                seen |= {row["queue"] for row in event["queues"]}
            return seen

        assert names("watcher") == {"a1", "b1"}
        assert names("some") == {"a1"}
        assert names("ops", "?tenant=other") == {"o1"}
        bearer = keyring.bearer
        assert http.get("/ui/feed", headers=bearer("ops")).status_code == 400
        assert http.get("/ui/feed?tenant=other", headers=bearer("watcher")).status_code == 403
        assert http.get("/ui/feed", headers=bearer("web")).status_code == 403
        assert http.get("/ui/history?queue=b1", headers=bearer("some")).status_code == 403
        assert http.get("/ui/history?queue=b1&tenant=acme", headers=bearer("ops")).status_code == 200


def test_the_stream_ends_when_its_key_is_withdrawn(keyed, tmp_path):
    """At the next figures after the file was read again."""
    gateway, keyring = keyed
    keyring.add("leaver", "acme", "observe")
    gateway.process.send_signal(signal.SIGHUP)
    with gateway.client() as http:
        while http.get("/ui/session", headers=keyring.bearer("leaver")).status_code != 200:
            time.sleep(0.005)
        with http.stream("GET", "/ui/feed", headers=keyring.bearer("leaver")) as answer:
            lines = answer.iter_lines()
            next(lines)
            keyring.remove("leaver")
            gateway.process.send_signal(signal.SIGHUP)
            for _ in lines:
                pass
        assert http.get("/ui/feed", headers=keyring.bearer("leaver")).status_code == 401


def test_an_open_stream_does_not_delay_a_stop(tmp_path):
    """The gateway ends it."""
    with running(tmp_path / "data", "--grace", "30") as gateway, gateway.client() as http:
        with http.stream("GET", "/ui/feed") as answer:
            lines = answer.iter_lines()
            next(lines)
            assert gateway.stop() == 0
            assert list(lines)[-1] == ""


def test_rates_are_those_of_the_jobs():
    """Stored, and gone: acked, deleted or expired; leased jobs are neither. After a restart nothing is known."""
    before = QueueStats(items=10, open_reads=2, total_items=100)
    assert rates(before, QueueStats(items=15, open_reads=2, total_items=120), 10) == Rates(2.0, 1.5)
    assert rates(before, QueueStats(items=0, open_reads=12, total_items=100), 10) == Rates(0.0, 0.0)
    assert rates(before, QueueStats(items=1, total_items=1), 10) == Rates()
    assert rates(None, QueueStats(items=5, total_items=5), 5) == Rates(1.0, 0.0)


def test_the_history_keeps_the_last_hour_of_each_queue():
    """Series of equal length, also for a queue that came later or was away while a server was down."""
    history = History(lambda key: None if key.endswith("__dead") else key + "__dead", Turns())

    async def add_rounds():
        for number in range(1, SAMPLES + 50):
            queues = {"a": QueueStats(items=number, total_items=number * 20), "a__dead": QueueStats(items=3)}
            if number > SAMPLES:
                queues["late"] = QueueStats(items=1)
            await history.add(Round(number, number * 10.0, queues))

    asyncio.run(add_rounds())
    found = history.columns("a")
    assert {len(series) for series in found.values()} == {SAMPLES}
    assert (found["at"][-1], found["items"][-1], found["dead_letters"][-1]) == ((SAMPLES + 49) * 10.0, SAMPLES + 49, 3)
    assert (found["in_rate"][-1], found["out_rate"][-1]) == (2.0, 1.9)
    assert {len(series) for series in history.columns("late").values()} == {49}
    assert history.columns("a__dead")["at"] == []
    assert len(history.recent("a", 40)) == 40
