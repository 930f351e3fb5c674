"""docs/scale.md shows what the simulation says, and the simulation chooses as the client does."""

from bench.scale import _home, plan, report
from gateway.kestrel.address import Address
from gateway.kestrel.writes import weight


def test_the_tables_are_the_simulation_s(root):
    """Run again it says the same, and that is what the page has."""
    page = (root / "docs" / "scale.md").read_text()
    tables = report().split("\n\n")
    assert report().split("\n\n") == tables
    for table in tables:
        assert table in page


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
