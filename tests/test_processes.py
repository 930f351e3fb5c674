"""What the tests read of processes in /proc."""

import subprocess
import sys
from pathlib import Path

from tests.lab.processes import group_lives
from tests.lab.waiting import until

FIRST_THREAD_ENDS = """
import ctypes, threading
threading.Thread(target=input).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_lives_until_its_last_thread_has_ended():
    """The first one may be gone long before, as after a SIGKILL while another writes to the disk."""
    command = [sys.executable, "-c", FIRST_THREAD_ENDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        state = Path(f"/proc/{process.pid}/stat")
        until(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z")
        assert group_lives(process.pid)
        process.kill()
        until(lambda: not group_lives(process.pid))
