"""The bridge's rules: nothing that happens in a greenlet can look like success when it is not."""

import gc
import weakref

import greenlet
import pytest

from gateway.kestrel.wire.bridge import Bridge, BridgeError, Phase


def test_a_value_and_an_exception_come_back_by_their_own_marks():
    """A call's value and its exception are distinguished, and the greenlet serves the next call."""
    bridge = Bridge()
    assert bridge.start(lambda a: a + 1, (1,))
    assert (bridge.value, bridge.error) == (2, None)
    for error in (ValueError("no"), KeyboardInterrupt(), greenlet.GreenletExit(), SystemExit(3)):

        def fail(error=error):
            raise error

        bridge.value = bridge.error = None
        assert bridge.start(fail, ())
        assert bridge.value is None
        assert bridge.error is error
        assert bridge.phase is Phase.READY


def test_a_call_that_waits_goes_on_where_it_waited():
    """A call leaves at each wait and goes on when resumed."""
    bridge, steps = Bridge(), []

    def work():
        for step in range(3):
            steps.append(step)
            bridge.wait()
        return "done"

    assert not bridge.start(work, ())
    assert steps == [0]
    assert not bridge.resume()
    assert not bridge.resume()
    assert steps == [0, 1, 2]
    assert bridge.resume()
    assert bridge.value == "done"


def test_entering_a_busy_greenlet_raises():
    """A second call in a waiting greenlet is refused, and the first one is not disturbed."""
    bridge = Bridge()
    assert not bridge.start(bridge.wait, ())
    with pytest.raises(BridgeError):
        bridge.start(lambda: "success", ())
    assert bridge.value is None
    assert bridge.resume()


def test_entering_an_ended_greenlet_raises():
    """A greenlet that was ended never runs again: it would return the arguments it was given."""
    bridge = Bridge()
    bridge.end()
    bridge.end()
    with pytest.raises(BridgeError):
        bridge.start(lambda: True, ())
    with pytest.raises(BridgeError):
        bridge.resume()


def test_a_greenlet_that_dies_in_a_call_raises():
    """Even a greenlet killed behind the bridge's back does not return its arguments as a value."""
    bridge = Bridge()
    while not bridge._greenlet.dead:
        bridge._greenlet.throw()
    with pytest.raises(BridgeError):
        bridge.start(lambda: True, ())
    assert bridge.value is None
    assert bridge.phase is Phase.ENDED


def test_only_a_waiting_greenlet_is_resumed_or_interrupted():
    """Resuming a bridge that does not wait is a defect and raises an error."""
    bridge = Bridge()
    with pytest.raises(BridgeError):
        bridge.resume()
    with pytest.raises(BridgeError):
        bridge.throw(ValueError())


def test_only_the_greenlet_of_the_call_waits():
    """Waiting on the loop's side would stop everything; it raises."""
    with pytest.raises(BridgeError):
        Bridge().wait()


def test_an_interrupted_call_ends_with_that_error():
    """An error thrown in where a call waits is its outcome."""
    bridge = Bridge()
    assert not bridge.start(bridge.wait, ())
    error = ValueError("enough")
    assert bridge.throw(error)
    assert bridge.error is error


def test_a_call_that_swallows_its_interruption_can_be_ended():
    """`end` stops even a call that catches its interruption and waits again."""
    bridge = Bridge()

    def stubborn():
        try:
            bridge.wait()
        except ValueError:
            bridge.wait()
        return True

    assert not bridge.start(stubborn, ())
    assert not bridge.throw(ValueError())
    bridge.end()
    assert bridge.phase is Phase.ENDED
    assert bridge.value is None


def test_a_dropped_bridge_leaves_nothing_behind():
    """An idle greenlet holds nothing, so dropping the bridge ends it, without the garbage collector."""
    gc.disable()
    try:
        bridge = Bridge()
        assert bridge.start(lambda: None, ())
        inner = weakref.ref(bridge._greenlet)
        del bridge
        assert inner() is None
    finally:
        gc.enable()
