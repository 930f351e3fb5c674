"""The schedule: the same seed strikes the same way, and nothing is struck that is down."""

from chaos.schedule import LONGEST_FREEZE_S, make


def test_a_seed_replays_its_schedule():
    """Equal seeds give equal blows, others do not."""
    assert make(7, 180) == make(7, 180)
    assert make(7, 180) != make(8, 180)


def test_every_kind_is_killed_and_frozen():
    """Three minutes hold every action on every kind of target."""
    seen = {(blow.target.partition("-")[0], blow.action) for blow in make(7, 180)}
    kinds = {"producer", "consumer", "worker", "replica", "server"}
    assert seen == {(kind, action) for kind in kinds for action in ("kill", "freeze")} | {("replica", "kill-parent")}


def test_nothing_is_struck_while_it_is_down():
    """A replica and its workers never overlap, all is over by the end, and no freeze is longer than said."""
    for seed in range(20):
        until = {}
        for blow in make(seed, 60):
            kind, _, place = blow.target.partition("-")
            touched = {"replica-" + place.partition(".")[0], blow.target} if kind == "worker" else {blow.target}
            if kind == "replica":
                touched |= {f"worker-{place}.{worker}" for worker in range(2)}
            assert all(until.get(each, 0.0) <= blow.at_s + 0.002 for each in touched)
            until |= dict.fromkeys(touched, blow.at_s + blow.length_s)
            assert blow.at_s + blow.length_s <= 60.002
            assert blow.length_s <= LONGEST_FREEZE_S
