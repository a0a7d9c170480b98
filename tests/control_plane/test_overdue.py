"""Requests that can't be in time any more: what they get, and when."""

from __future__ import annotations

import pytest

from sage_inference.control_plane.accounting.prompt_share import CHEAP_MS, LEAST, can_spare
from sage_inference.control_plane.instances.load import MOST_OWED_S
from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.types import PROMPT_SHARE, ExecutionInstance
from tests.control_plane.parts import EMBED, Clock, Submitted, alarms_of, instance, manager, request, submit

HOPELESS = 100_000  # tokens: 3 s at 0.03 ms


def streaming(clock: Clock, *instances: ExecutionInstance, policy: str = "hybrid") -> Scheduler:
    """Each instance has a stream whose prompt took it 120 ms."""
    m = manager(*instances, policy=policy, clock=clock)
    running = [submit(m, request(i.instance_id, 4000, arrived=clock.now)) for i in instances]
    clock.now += 0.12
    for each in running:
        m.first_byte(each)
    return m


def overdue(m: Scheduler, clock: Clock, name: str = "overdue") -> Submitted:
    return submit(m, request(name, HOPELESS, arrived=clock.now))


def test_a_late_prompt_waits_until_streams_had_their_share_of_the_time() -> None:
    clock, a = Clock(), instance("a")
    m = streaming(clock, a)
    alarms = alarms_of(m)
    waits = overdue(m, clock)
    assert waits.where is None
    assert alarms == [pytest.approx(1000.0 + 0.12 / PROMPT_SHARE)]
    clock.now = alarms[-1]
    m.dispatch()
    assert waits.where is a
    assert a.load.overdue == 1


def test_one_in_time_passes_the_late() -> None:
    clock, a = Clock(), instance("a")
    m = streaming(clock, a)
    waits = overdue(m, clock)
    assert submit(m, request("soon", 100, arrived=clock.now)).where is a
    assert waits.where is None


def test_a_late_prompt_never_joins_one_that_is_under_way_for_somebody_in_time() -> None:
    clock, a = Clock(), instance("a")
    m = manager(a, clock=clock)
    a.load.ms_per_token = 1.0
    soon = submit(m, request("soon", 500))
    waits = submit(m, request("overdue", 3000))
    clock.now += 60
    m.dispatch()
    assert waits.where is None
    m.release(soon)
    assert waits.where is a


def test_the_late_go_where_no_stream_is_disturbed() -> None:
    clock, a, b = Clock(), instance("a"), instance("b")
    m = streaming(clock, a)
    m.registry.add(b)
    assert overdue(m, clock).where is b


def test_among_themselves_the_late_fill_the_window_as_others_do() -> None:
    clock, a = Clock(), instance("a")
    a.load.ms_per_token = 1.0  # a slow engine: 2,000 tokens take two seconds
    m = manager(a, clock=clock)
    assert [submit(m, request(n, 2000)).where for n in range(5)] == [a, a, a, a, None]
    assert a.load.overdue == 4


def test_embeddings_have_no_streams_to_spare() -> None:
    clock, a = Clock(), instance("a", route=EMBED)
    a.load.ms_per_token = 1.0
    m = manager(a, clock=clock)
    submit(m, request("soon", 100, route=EMBED))
    assert submit(m, request("overdue", 2000, route=EMBED)).where is a


@pytest.mark.parametrize("policy", ["least_loaded", "priority"])
def test_an_order_that_puts_nobody_behind_the_others_spares_nothing(policy: str) -> None:
    clock, a = Clock(), instance("a")
    assert overdue(streaming(clock, a, policy=policy), clock).where is a


def test_without_late_binding_the_late_go_on_at_once() -> None:
    clock, a = Clock(), instance("a", window=float("inf"))
    assert overdue(streaming(clock, a), clock).where is a


def test_a_long_prompt_that_is_mostly_cached_is_not_late() -> None:
    clock, a = Clock(), instance("a")
    m = streaming(clock, a)
    blocks = tuple(range(HOPELESS // 64))
    m._selector.prefixes.add(a, request("before", HOPELESS, blocks=blocks))
    waits = overdue(m, clock)
    assert submit(m, request("warm", HOPELESS, arrived=clock.now, blocks=blocks)).where is a
    assert (waits.where, a.load.overdue) == (None, 0)


def test_under_a_policy_that_spares_nothing_who_was_late_goes_at_once() -> None:
    clock, a = Clock(), instance("a")
    m = streaming(clock, a)
    waits = overdue(m, clock)
    m.use(policy_named("fifo"))
    m.dispatch()
    assert waits.where is a


def test_what_was_placed_late_is_counted_until_its_end() -> None:
    clock, a = Clock(), instance("a")
    m = manager(a, clock=clock)
    one = overdue(m, clock)
    assert (a.active_requests, a.load.overdue) == (1, 1)
    assert can_spare(a, 3000.0, clock.now)
    m.release(one)
    assert (a.active_requests, a.load.overdue) == (0, 0)


def test_a_late_one_that_is_due_gets_an_instance_like_others() -> None:
    clock, a = Clock(), instance("a", 2)
    m = streaming(clock, a)
    waits = overdue(m, clock)
    clock.now += 203.0  # its prompt takes two seconds more than it has until its first token
    for number in range(100):  # work of four times its size
        soon = submit(m, request(number, 8000, arrived=clock.now))
        clock.now += 0.24
        if waits.where is not None or soon.where is None:
            break
        m.first_byte(soon)
        m.release(soon)
    assert waits.where is a
    assert 4 * HOPELESS / 8300 <= number <= 4 * HOPELESS / 8000 + 2


@pytest.mark.parametrize(("share", "goes"), [(PROMPT_SHARE, True), (LEAST, False)])
def test_a_cheap_late_prompt_goes_beside_one_under_way_while_streams_keep_their_slo(
    share: float, goes: bool
) -> None:
    clock, a = Clock(), instance("a")
    m = streaming(clock, a)
    submit(m, request("in time", 8000, arrived=clock.now))
    waits = submit(m, request("overdue", int(CHEAP_MS / a.load.ms_per_token) - 10, arrived=clock.now))
    clock.now += 1.2
    a.load.pending_tokens, a.load.prompt_share = 1000, share  # the first of its prompt's chunks are done
    m.dispatch()
    assert (waits.where is a) == goes


def test_a_long_late_prompt_does_not_keep_cheap_ones_waiting() -> None:
    clock, a = Clock(), instance("a")
    m = streaming(clock, a)
    waits = overdue(m, clock)
    assert submit(m, request("cheap", 100, arrived=clock.now - 2.0)).where is a
    assert waits.where is None


def test_a_late_prompt_that_another_had_cached_meanwhile_goes_as_a_cheap_one() -> None:
    clock, a = Clock(), instance("a")
    m = streaming(clock, a)
    blocks = tuple(range(HOPELESS // 64))
    waits = submit(m, request("overdue", HOPELESS, arrived=clock.now, blocks=blocks))
    m._selector.prefixes.add(a, request("same prefix", HOPELESS, blocks=blocks))
    assert waits.where is None
    clock.now += 1.01
    a.load.spares_from = clock.now + 5.0
    m.dispatch()
    assert waits.where is a


@pytest.mark.parametrize("busy_s", [3.0, 60.0, 3600.0])
def test_after_prompts_had_all_the_time_the_late_wait_for_no_more_than_a_few_seconds(busy_s: float) -> None:
    clock, a = Clock(), instance("a")
    m = streaming(clock, a)
    begun = clock.now
    while clock.now < begun + busy_s:
        one = submit(m, request("one", 8000, arrived=clock.now))
        clock.now += min(10.0, busy_s / 20)
        m.first_byte(one)
    assert a.load.spares_from - clock.now <= MOST_OWED_S


def test_where_streams_have_all_the_room_a_late_prompt_goes_at_once() -> None:
    clock, a = Clock(), instance("a")
    m = streaming(clock, a)
    clock.now += 0.1
    assert overdue(m, clock).where is a
