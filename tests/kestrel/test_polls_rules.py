"""Each numbered rule of gateway.kestrel.polls.rules, by name, without a socket or a clock."""

import itertools

import pytest

from gateway.kestrel.polls.rules import CHECK_S, GATHER_S, LINGER_S, PROOF_S, QUEUE_GETS, SETTLE_S, STEP_S
from gateway.kestrel.polls.values import MOVES, Abort, Close, End, EndReason, Give, GiveBack, Send, Waiter, WaiterPhase
from tests.kestrel.polls_world import LONGEST_WAIT_S, PATIENCE_S, World, WorldItem


def told(world, kind):
    return [action for action in world.told if isinstance(action, kind)]


def test_the_phases_end_and_an_illegal_move_raises():
    """Nothing follows a fetched item or an ended wait."""
    assert MOVES[WaiterPhase.SERVED] == MOVES[WaiterPhase.ENDED] == frozenset()
    waiter = Waiter(0.0, 1.0, 1.0)
    with pytest.raises(RuntimeError):
        waiter.move(WaiterPhase.SERVED)


def test_rule_1_the_first_in_line_is_served_whichever_get_brought_the_item():
    """The get of the last poll serves the one that waits longest; its answer serves no other."""
    world = World()
    first = world.come(10)
    world.settle()
    world.put(world.servers[0], wakes=False)
    second = world.come(0)
    world.settle()
    assert (first.phase, second.phase) == (WaiterPhase.GIVEN, WaiterPhase.ENDED)


@pytest.mark.parametrize("ask", [False, True])
def test_rule_1_who_came_first_is_first_though_it_has_taken_directly_before(ask):
    """It joins the line after one that came later, which waits or asks."""
    world = World()
    second = world.come(10)
    if not ask:
        world.settle(0.01)
    first = world.come(10, order=0)
    world.settle(0.01)
    world.put(world.servers[0])
    world.settle(0.1)
    assert (first.phase, second.phase) == (WaiterPhase.GIVEN, WaiterPhase.WAITING)


def test_rule_1_who_lost_an_item_is_first_again():
    """The next item is its, although others came before that."""
    world = World()
    first, second = world.come(10), world.come(10)
    world.settle()
    world.put(world.servers[0])
    world.lose(first)
    world.settle(0.1)
    assert first.phase is WaiterPhase.GIVEN
    assert second.phase is WaiterPhase.WAITING


def test_rule_2_takes_run_in_parallel_each_for_its_own_item():
    """Five come at once and five items are asked for at once."""
    world = World()
    for _ in range(5):
        world.put(world.servers[0])
    waiters = [world.come(0) for _ in range(5)]
    assert len(world.takes) == 5
    world.settle()
    assert [waiter.item.order for waiter in waiters] == [1, 2, 3, 4, 5]
    assert len(told(world, Send)) == 5


def test_rule_2_an_empty_answer_counts_for_those_who_came_before_its_take_and_for_no_other():
    """One take for all who came before; one who came after it was sent has its own."""
    world = World(waits=1)
    first = world.come(0)
    others = [world.come(0) for _ in range(30)]
    (take,) = world.takes
    world.answer(take)
    assert first.phase is WaiterPhase.ENDED
    assert not any(other.phase is WaiterPhase.ENDED for other in others)
    (take,) = world.takes
    late = world.come(0)
    world.answer(take)
    assert all(other.phase is WaiterPhase.ENDED for other in others)
    assert late.phase is WaiterPhase.ASKING
    world.settle()
    assert world.ends[late].why is EndReason.EMPTY


def test_rule_2_an_empty_queue_has_one_take_at_a_time():
    """Once it was empty, those who come together share; an item shows that there may be more."""
    world = World()
    world.come(0)
    world.settle()
    for _ in range(5):
        world.come(0)
    assert len(world.takes) == 1
    for _ in range(6):
        world.put(world.servers[0])
    world.answer(world.takes[0])
    assert len(world.takes) == 4


@pytest.mark.parametrize("servers", [1, 2])
def test_rule_2_polls_that_only_await_a_take_need_no_decision(servers):
    """Those that come while the take of an empty queue is under way share its answer. The model compares the state."""
    world = World(servers)
    world.come(0)
    world.settle()
    waiters = [world.come(timeout_s) for timeout_s in (0, 0, 10, 0)]
    assert world.joined == 3
    world.settle()
    assert [waiter.phase for waiter in waiters[:2]] == [WaiterPhase.ENDED, WaiterPhase.ENDED]
    assert waiters[2].phase is WaiterPhase.WAITING


def test_rule_2_a_kept_item_is_for_the_next_poll_though_a_take_is_under_way():
    """Three takes bring an item, nothing, and no answer yet, when every poll has left."""
    world = World()
    for waiter in [world.come(0) for _ in range(3)]:
        world.leave(waiter)
    world.servers[0].queue.append(WorldItem(1, world.servers[0]))
    world.answer(world.takes[0])
    world.answer(world.takes[0])
    assert len(world.takes) == 1
    assert world.come(0).phase is WaiterPhase.GIVEN
    assert world.joined == 0


def test_rule_7_who_comes_when_the_server_has_become_full_is_refused_though_a_take_is_under_way():
    """Other queues hold all its items now."""
    world = World()
    world.come(0)
    world.settle()
    world.come(0)
    world.servers[0].item_limit = 0
    refused = world.come(0)
    assert (world.ends[refused].why, world.joined) == (EndReason.FULL, 0)


def test_rule_4_a_poll_that_comes_when_a_take_is_overdue_ends_it():
    """The timer is late; the poll that waited too long is not kept for another one's sake."""
    world = World()
    world.come(0)
    world.settle()
    first = world.come(0)
    world.lag(PATIENCE_S)
    world.come(0)
    assert first.phase is WaiterPhase.ENDED


def test_rule_3_who_comes_while_a_wait_is_there_waits_at_once():
    """A take would find nothing that the wait did not bring."""
    world = World()
    world.come(10)
    assert len(world.takes) == 1
    world.settle()
    assert len(world.waits) == 1
    second = world.come(10)
    assert second.phase is WaiterPhase.WAITING
    assert not world.takes


def test_rule_3_empty_and_time_left_joins_the_waiters():
    """The first take is empty: a get with `t=` follows it, of the time that is left or the longest that is allowed."""
    for timeout_s, wait_s in ((10, LONGEST_WAIT_S), (0.3, 0.3)):
        world = World()
        waiter = world.come(timeout_s)
        world.settle()
        assert waiter.phase is WaiterPhase.WAITING
        assert [get.wait_s for get in world.waits] == [pytest.approx(wait_s)]


def test_rule_4_a_wait_ends_empty_only_after_a_take_that_was_sent_at_its_end():
    """The job's wake-up was lost and no get with `t=` brings it: the last take does."""
    world = World()
    waiter = world.come(0.5)
    world.settle()
    world.put(world.servers[0], wakes=False)
    world.wait(0.499)
    assert waiter.phase is WaiterPhase.WAITING
    world.wait(0.002)
    assert waiter.phase is WaiterPhase.ASKING
    world.settle()
    assert waiter.phase is WaiterPhase.GIVEN


def test_rule_4_who_is_silent_is_left_out_after_its_time():
    """One of two answers: 1/2. None: an error. A server that answers others at the time is waited for."""
    world = World(servers=2)
    waiter = world.come(0)
    world.wait(STEP_S)
    world.answer(next(iter(world.servers[0].gets)))
    world.wait(PROOF_S + 0.01)
    assert (world.ends[waiter].why, world.ends[waiter].asked, world.ends[waiter].total) == (EndReason.EMPTY, 1, 2)
    alone = World()
    waiter = alone.come(1)
    alone.wait(PROOF_S + 0.01)
    alone.wait(1 + PROOF_S)
    assert alone.ends[waiter].why is EndReason.SILENT
    busy = World()
    waiter = busy.come(1)
    busy.settle()
    busy.wait(1)
    for _ in range(5):
        busy.servers[0].heard_at = busy.now
        busy.wait(PROOF_S * 0.9)
    assert waiter.phase is WaiterPhase.ASKING
    busy.settle()
    assert busy.ends[waiter].why is EndReason.EMPTY


def test_rule_5_as_many_waits_as_waiters_and_no_more_than_allowed():
    """1, 3, then the limit; over many servers QUEUE_GETS in all, which change places within a second."""
    world = World(waits=4)
    for polls, gets in ((1, 1), (3, 3), (20, 4)):
        while len(world.waiters) < polls:
            world.come(30)
        world.settle()
        assert len(world.waits) == gets
    many = World(servers=QUEUE_GETS + 16)
    for _ in range(60):
        many.come(30)
    many.settle(2)
    seen = dict.fromkeys(many.servers, many.now)
    until = many.now + 2.5
    while many.now < until:
        many.settle(0.02)
        assert len(many.waits) <= QUEUE_GETS
        for server in many.servers:
            if server.gets or server.heard_at > seen[server]:
                seen[server] = many.now
        assert many.now - min(seen.values()) < 1.2


def test_rule_6_few_waiters_do_not_take_an_item_from_every_server():
    """Items on three servers, one poll: one take, and one more server every STEP_S while there is no answer."""
    for timeout_s in (0, 10):
        world = World(servers=3)
        for server in world.servers:
            world.put(server)
        world.come(timeout_s)
        assert len(world.gets) == 1
        world.settle()
        assert len(told(world, Give)) == len(told(world, Send)) == 1
        slow = World(servers=3)
        slow.come(timeout_s)
        slow.wait(STEP_S * 1.1)
        assert len(slow.takes) == 3


def test_rule_6_waits_begin_one_after_the_other():
    """A poll that waits has a get on each of three servers, and never two that began within STEP_S."""
    world = World(servers=3)
    world.come(10)
    world.settle(0.1)
    begun = sorted(get.begun_at for get in world.waits)
    assert len(begun) == 3
    assert min(b - a for a, b in itertools.pairwise(begun)) >= STEP_S * 0.99


def test_rule_7_a_full_server_is_left_out_and_who_comes_is_refused():
    """Full or without a place: refused at once, and no get is sent; a poll that already waits goes on."""
    for limit, why in (("item_limit", EndReason.FULL), ("places", EndReason.CROWDED)):
        world = World()
        setattr(world.servers[0], limit, 0)
        for timeout_s in (0, 10):
            assert world.ends[world.come(timeout_s)].why is why
        assert not told(world, Send)
    world = World()
    waiter = world.come(10)
    world.settle()
    world.servers[0].item_limit = 0
    world.settle(2)
    assert waiter.phase is WaiterPhase.WAITING
    assert world.polls.starving
    world.servers[0].item_limit = 1
    world.run()
    assert len(world.waits) == 1


def test_rule_7_the_last_take_needs_no_place_of_its_own():
    """All places are taken by the waits: a wait that ends is proved all the same."""
    world = World()
    world.servers[0].places = 1
    waiter = world.come(0.5)
    world.come(20)
    world.settle()
    assert len(world.waits) == 1
    world.settle(0.6)
    assert world.ends[waiter].why is EndReason.EMPTY


def test_rule_8_what_nobody_wants_serves_the_next_or_goes_back_the_newest_first():
    """Three items whose polls have left: the next poll has the oldest, the others go back in reverse order."""
    world = World()
    waiters = [world.come(10) for _ in range(3)]
    world.settle()
    for _ in range(3):
        world.put(world.servers[0])
    for waiter in waiters:
        world.leave(waiter)
    late = world.come(10)
    assert late.item.order == 1
    world.leave(late)
    world.wait(0.1)
    assert [action.item.order for action in world.going] == [3]
    world.settle(0.1)
    assert [action.item.order for action in told(world, Abort)] == [3, 2, 1]
    assert [item.order for item in world.servers[0].queue] == [1, 2, 3]
    assert world.polls.idle


def test_rule_8_an_item_waits_for_a_newer_one_that_a_waiter_has_not_fetched():
    """The older one would be at the head first, and then behind the newer one."""
    world = World()
    older, newer = world.come(10), world.come(10)
    older.awaited = newer.awaited = True
    world.settle()
    for _ in range(2):
        world.put(world.servers[0])
    world.settle(0.01)
    assert [each.item.order for each in (older, newer)] == [1, 2]
    world.leave(older)
    world.settle(0.2)
    assert not told(world, Abort)
    world.leave(newer)
    world.settle(0.2)
    assert [action.item.order for action in told(world, Abort)] == [2, 1]
    assert [item.order for item in world.servers[0].queue] == [1, 2]


@pytest.mark.parametrize(("servers", "keep_s"), [(1, GATHER_S), (2, LINGER_S)])
def test_rule_8_waits_are_closed_before_items_go_back(servers, keep_s):
    """Else they would be given them."""
    world = World(servers)
    waiters = [world.come(10) for _ in range(2)]
    world.settle(0.1)
    for waiter in waiters:
        world.leave(waiter)
    world.put(world.servers[0])
    world.settle(keep_s * 0.9)
    assert not told(world, Close)
    world.settle(keep_s * 0.1 + SETTLE_S * 0.5)
    assert told(world, Close)
    assert not told(world, Abort), "the server is given time to notice"
    world.settle(keep_s)
    assert len(told(world, Abort)) == 1
    assert [len(server.queue) for server in world.servers] == [1, 0][:servers]


def test_rule_8_an_item_that_may_not_be_back_lets_the_others_go_with_their_connections():
    """The order is lost then, and time is not."""
    world = World()
    waiters = [world.come(10) for _ in range(3)]
    world.settle()
    for _ in range(3):
        world.put(world.servers[0])
    for waiter in waiters:
        world.leave(waiter)
    world.wait(0.1)
    world.go_back(world.going[0], seen=False)
    given_back = [each.item.number for each in told(world, GiveBack)]
    assert given_back == sorted(given_back, reverse=True)
    assert len(given_back) == 2
    assert world.polls.idle


def test_rule_9_a_get_outlives_its_poll():
    """Polls that come and go close no connection; without any the waits are closed after a while."""
    world = World(servers=2)
    for _ in range(20):
        waiter = world.come(10)
        world.settle(0.02)
        world.leave(waiter)
    assert not told(world, Close)
    assert len(told(world, Send)) <= 4
    world.settle(0.1)
    assert not world.gets
    assert world.polls.idle


def test_rule_9_a_server_that_leaves_has_no_get_of_ours():
    """Its gets are closed, and those who wait are asked for elsewhere."""
    world = World(servers=2)
    world.come(10)
    world.settle(0.1)
    one, two = world.servers
    world.polls.set_servers([two])
    world.run()
    assert not one.gets
    assert len(two.gets) == 1


def test_rule_10_cut_gets_come_again_after_growing_pauses():
    """At once the first time; what is cut together counts once."""
    world = World(waits=3)
    for _ in range(3):
        world.come(60)
    world.settle()
    for get in world.waits:
        world.cut(get)
    assert len(world.waits) == 3, "the first time at once"
    pauses = []
    for _ in range(4):
        for get in world.waits:
            world.cut(get)
        assert not world.waits
        began = world.now
        while not world.waits:
            world.wait(0.01)
        pauses.append(world.now - began)
    assert all(after > before for before, after in zip(pauses, pauses[2:], strict=False))
    assert pauses[0] < 0.07


def test_rule_10_a_take_that_is_cut_twice_fails_for_its_waiters():
    """It is repeated once; then a poll that asked only once gets the reason, and one with time left waits."""
    world = World()
    once, patient = world.come(0), world.come(10)
    world.cut(world.takes[0])
    assert once.phase is WaiterPhase.ASKING
    while world.takes:
        world.cut(world.takes[0])
    assert world.ends[once].why is EndReason.FAILED
    assert patient.phase is WaiterPhase.WAITING


def test_rule_11_a_server_that_does_not_wait_is_asked_in_slices_that_grow():
    """END at once, again and again: a few gets in half a second, one at a time."""
    world = World()
    for _ in range(3):
        world.come(10)
    world.settle()
    sent = len(told(world, Send))
    until = world.now + 0.5
    while world.now < until:
        for get in world.waits:
            world.expire(get)
        world.wait(0.001)
        assert len(world.waits) <= (1 if world.now > until - 0.45 else 3)
    assert 3 < len(told(world, Send)) - sent < 20


def test_rule_12_a_silent_wait_is_not_relied_on_after_our_own_put():
    """The wake-up of our own item is lost: one take CHECK_S later; another writer's is found by the next wait."""
    world = World()
    waiter = world.come(10)
    world.settle()
    world.put(world.servers[0], wakes=False, ours=True)
    world.settle(CHECK_S * 0.9)
    assert waiter.phase is WaiterPhase.WAITING
    world.settle(CHECK_S * 0.2)
    assert waiter.phase is WaiterPhase.GIVEN
    world.fetch(waiter)
    other = world.come(10)
    world.settle(0.1)
    began = world.now
    world.put(world.servers[0], wakes=False)
    while other.phase is WaiterPhase.WAITING:
        world.settle(0.01)
    assert world.now - began < LONGEST_WAIT_S + 0.02
    assert not told(world, End)


def test_rule_12_a_wake_up_that_came_costs_no_take():
    """The item is there in time: nothing more is sent."""
    world = World()
    waiters = [world.come(10) for _ in range(4)]
    world.settle()
    for _ in range(3):
        world.put(world.servers[0], ours=True)
    sent = len(told(world, Send))
    world.settle(CHECK_S * 2)
    assert len(told(world, Send)) == sent
    assert [waiter.phase for waiter in waiters] == [WaiterPhase.GIVEN] * 3 + [WaiterPhase.WAITING]
