"""`bench --against`: what it checks out, how it judges, and which limits of a run it refuses."""

import subprocess
import sys

import pytest

from bench.__main__ import main
from bench.against import BASE, CONTROL, THIS, Extent, Results, checkout
from bench.scenarios import SCENARIOS, Samples
from bench.servers import BenchError


def results(this, control):
    """Rounds of three turns; the base costs 100 us, the others these many per cent of it."""
    made = Results()
    for mine, same in zip(this, control, strict=True):
        made.add(
            {BASE: [100.0, 90.0, 110.0], THIS: [mine, 0.9 * mine, 1.1 * mine], CONTROL: [same, 0.9 * same, 1.1 * same]}
        )
    return made


@pytest.mark.parametrize(
    ("this", "control", "passes"),
    [
        ([105, 105, 105], [100, 100, 100], True),
        ([106, 106, 106], [100, 100, 100], False),
        ([106, 106, 106], [102, 102, 102], True),  # the same commit differs by as much
        ([106, 106, 106], [98, 98, 98], True),
        ([106, 106, 106], [99, 100, 101], True),  # half the quartiles' distance
        ([106, 106, 300], [100, 100, 100], False),
        ([100, 100, 300], [100, 100, 100], True),  # one bad round
    ],
)
def test_the_limit_is_1_05_and_what_the_control_differs_by(this, control, passes):
    """The median of the rounds counts; the control's deviation is added to the limit."""
    assert results(this, control).passes is passes


def test_a_commit_is_checked_out_and_removed(tmp_path):
    """The folder has the files of the commit, and nothing of it is left in the end. What is no commit is refused."""
    repository, folder = tmp_path / "repository", tmp_path / "folder"

    def git(*arguments):
        settings = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
        return subprocess.run(
            ["git", "-C", tmp_path, *settings, *arguments], check=True, capture_output=True, text=True
        )

    git("init", "-q", repository)
    (repository / "file").write_text("old")
    git("-C", repository, "add", "file")
    git("-C", repository, "commit", "-qm", "One")
    (repository / "file").write_text("new")
    git("-C", repository, "commit", "-qam", "Two")
    with checkout(repository, "HEAD~1", folder) as base:
        assert (base / "file").read_text() == "old"
    assert not folder.exists()
    assert len(git("-C", repository, "worktree", "list").stdout.splitlines()) == 1
    with pytest.raises(BenchError, match="no-such-commit"), checkout(repository, "no-such-commit", folder):
        pass


def test_too_few_rounds_are_refused():
    """One round has no deviation."""
    with pytest.raises(ValueError, match="--rounds: 1 is below the minimum of 2"):
        Extent(rounds=1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--against", "HEAD", "--rounds", "1"], "--rounds: 1 is below the minimum of 2"),
        (["--against", "HEAD", "requests"], "--against: it measures calls of its own; leave out the names of cases"),
    ],
)
def test_what_does_not_go_together_is_refused(monkeypatch, capsys, arguments, says):
    """Before anything is measured."""
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def samples(this, control, base=(100.0, 101.0, 99.0, 100.0)):
    """CPU of four turns."""
    return Samples({BASE: list(base), THIS: this, CONTROL: control}, {})


@pytest.mark.parametrize(
    ("control", "counts"),
    [
        ([100.0, 101.0, 99.0, 100.0], True),
        ([104.0, 104.0, 104.0, 104.0], True),
        ([106.0, 107.0, 106.0, 107.0], False),  # its median
        ([94.0, 94.0, 94.0, 93.0], False),
        ([80.0, 100.0, 100.0, 120.0], False),  # its quartiles
    ],
)
def test_a_scenario_counts_only_beside_a_quiet_control(control, counts):
    """The same commit twice has the same cost, at the median and at the quartiles."""
    assert samples([50.0] * 4, control).control_counts is counts


def test_a_turn_is_compared_with_the_same_turn():
    """A turn that was slow for both changes no ratio."""
    assert samples([50.0, 500.0, 50.0, 50.0], [1.0] * 4, (100.0, 1000.0, 100.0, 100.0)).ratios(THIS, BASE) == [0.5] * 4


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_has_a_control(name):
    """The control runs what the base runs, with the same flags, and as many jobs wait."""
    scenario = SCENARIOS[name]
    assert scenario.gateways[BASE] == scenario.gateways[CONTROL]
    assert scenario.waiting.get(BASE) == scenario.waiting.get(CONTROL)
    assert scenario.units % scenario.call.jobs == 0
