"""docs/scale.md shows what the simulation says, and the simulation chooses as the client does."""

from bench.scale import BROKER_US, GATEWAY_JOBS_S, GATEWAY_US, KESTREL_JOBS_S, SERVERS, _home, plan, report
from gateway.kestrel.address import Address
from gateway.kestrel.puts.placement import weight
from tests.lab.examples import some


def test_the_tables_are_the_simulation_s(root):
    """Run again it says the same, and that is what the page has; on a developer's machine, its first rows."""
    page = (root / "docs" / "scale.md").read_text()
    for table in report(some(SERVERS)).split("\n\n"):
        assert table in page


def test_it_starts_from_what_was_measured(root):
    """The CPU of each call is that of bench/README.md, and docs/scale.md names the same figures."""
    page = (root / "docs" / "scale.md").read_text()
    rows = [line.split("|") for line in (root / "bench" / "README.md").read_text().splitlines() if line[:2] == "| "]
    measured: dict[str, list[str]] = {}
    for row in rows:
        if len(row) == 8:
            measured.setdefault(row[1].partition(" (")[0].strip(), row[2:4])
    for call in ("enqueue", "next + ack"):
        assert [int(us) for us in measured[call]] == [GATEWAY_US[call], BROKER_US[call]]
    assert f"{GATEWAY_US['enqueue']} us of a core, next and ack {GATEWAY_US['next + ack']} us" in page
    assert f"{BROKER_US['enqueue']} and {BROKER_US['next + ack']} us" in page
    assert (round(GATEWAY_JOBS_S, -2), round(KESTREL_JOBS_S / 50) * 50) == (1000, 2500)
    assert "1,000 jobs a second per worker, 2,500 per server" in page


def test_more_needs_more():
    """Workers, servers and connections grow with the load."""
    small, large = plan(1_000_000, 1_000), plan(100_000_000, 1_000)
    assert small.workers < large.workers
    assert small.servers < large.servers


def test_a_server_of_an_ordering_key_is_the_heaviest():
    """Both put a key on one server, and on the same one again; three servers have about a third each."""
    addresses = [Address("kestrel", port) for port in (1, 2, 3)]
    for choose in (
        lambda key: _home(key, range(3)),
        lambda key: max(range(3), key=lambda at: weight(addresses[at], "q", key)),
    ):
        homes = [choose(str(key)) for key in range(3000)]
        assert homes == [choose(str(key)) for key in range(3000)]
        assert all(900 < homes.count(server) < 1100 for server in range(3))
