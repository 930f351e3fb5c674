"""The schedule: the same seed gives the same faults, and no fault is injected into what is down."""

from chaos.schedule import EMBEDDED, LONGEST_FREEZE_S, make


def test_a_seed_replays_its_schedule():
    """Equal seeds give equal faults, others do not."""
    assert make(7, 180) == make(7, 180)
    assert make(7, 180) != make(8, 180)


def test_every_kind_is_killed_and_frozen():
    """Three minutes hold every action on every kind of target."""
    seen = {(fault.target.partition("-")[0], fault.action) for fault in make(7, 180)}
    kinds = {"producer", "consumer", "worker", "replica", "server"}
    assert seen == {(kind, action) for kind in kinds for action in ("kill", "freeze")} | {("replica", "kill-parent")}


def test_an_embedded_broker_is_killed_frozen_and_its_disk_filled():
    """Never while its gateway is down; three workers have their faults, too."""
    faults = make(7, 180, layout=EMBEDDED)
    seen = {(fault.target, fault.action) for fault in faults}
    assert {action for target, action in seen if target == "broker-0"} == {"kill", "freeze", "fill"}
    assert {target for target, _ in seen if target.startswith("worker")} == {f"worker-0.{place}" for place in range(3)}
    assert not any(target.startswith("server") or target == "replica-1" for target, _ in seen)
    until_s = {"broker-0": 0.0, "replica-0": 0.0}
    for fault in faults:
        if fault.target in until_s:
            assert max(until_s.values()) <= fault.at_s + 0.002
            until_s[fault.target] = fault.at_s + fault.length_s


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
