"""Random bits for ids: they never repeat, in any thread or child process."""

import os
from concurrent.futures import ThreadPoolExecutor

from gateway.nonce import NONCE_BYTES, nonce


def test_nobody_is_given_another_s():
    """Many threads at once, over many blocks."""
    with ThreadPoolExecutor(8) as threads:
        given = [each for some in threads.map(lambda _: [nonce() for _ in range(2000)], range(8)) for each in some]
    assert len(set(given)) == len(given) == 16_000
    assert {len(each) for each in given} == {NONCE_BYTES}


def test_a_child_draws_its_own():
    """What is left of a block when the process forks is the parent's."""
    nonce()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, nonce())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 64)
    os.close(read)
    os.close(write)
    assert theirs not in {nonce() for _ in range(1000)}
