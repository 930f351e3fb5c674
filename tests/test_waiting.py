"""What tests of times do on a machine that stalls."""

import subprocess
import sys
import time

import pytest

from tests.lab.waiting import undisturbed

STOPPED_S = 0.3
STOPS_ITS_PARENT = f"""
import os, signal, time
os.kill(os.getppid(), signal.SIGSTOP)
time.sleep({STOPPED_S})
os.kill(os.getppid(), signal.SIGCONT)
"""


def test_a_test_of_times_is_repeated_after_a_stall():
    """Whatever it fails with, and only if the process was stopped for long."""
    attempts = []

    @undisturbed(STOPPED_S / 2)
    def measured(limit_s):
        attempts.append(limit_s)
        began_s = time.monotonic()
        if len(attempts) < 3:
            subprocess.run([sys.executable, "-c", STOPS_ITS_PARENT], check=True)
            if len(attempts) == 1:
                with pytest.raises(ZeroDivisionError):
                    pass
        assert time.monotonic() - began_s < limit_s

    measured(STOPPED_S)
    assert len(attempts) == 3


def test_a_test_of_times_that_fails_without_a_stall_has_failed():
    """At once, with what it raised."""
    attempts = []

    @undisturbed(5)
    def wrong():
        attempts.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        wrong()
    assert len(attempts) == 1
