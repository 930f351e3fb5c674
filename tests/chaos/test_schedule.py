"""The schedule: the same seed gives the same faults, and no fault is injected into what is down."""

from chaos.schedule import LONGEST_FREEZE_S, make


def test_a_seed_replays_its_schedule():
    """Equal seeds give equal faults, others do not."""
    assert make(7, 180) == make(7, 180)
    assert make(7, 180) != make(8, 180)


def test_every_kind_is_killed_and_frozen():
    """Three minutes hold every action on every kind of target."""
    seen = {(fault.target.partition("-")[0], fault.action) for fault in make(7, 180)}
    kinds = {"producer", "consumer", "worker", "replica", "server"}
    assert seen == {(kind, action) for kind in kinds for action in ("kill", "freeze")} | {("replica", "kill-parent")}


def test_nothing_is_struck_while_it_is_down():
    """A replica and its workers never overlap, all is over by the end, and no freeze is longer than said."""
    for seed in range(20):
        until = {}
        for fault in make(seed, 60):
            kind, _, place = fault.target.partition("-")
            touched = {"replica-" + place.partition(".")[0], fault.target} if kind == "worker" else {fault.target}
            if kind == "replica":
                touched |= {f"worker-{place}.{worker}" for worker in range(2)}
            assert all(until.get(each, 0.0) <= fault.at_s + 0.002 for each in touched)
            until |= dict.fromkeys(touched, fault.at_s + fault.length_s)
            assert fault.at_s + fault.length_s <= 60.002
            assert fault.length_s <= LONGEST_FREEZE_S
