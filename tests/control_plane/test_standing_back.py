"""Long prompts in time stand back while streams lose their SLO, because the bound on overdue prompts does not help them."""

from __future__ import annotations

import pytest

from sage_inference.control_plane.accounting.prompt_share import BACK, HARMED, LEAST
from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.queue.group_queue import PIECE, REVIEW_S
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.types import EngineState, ExecutionInstance, RequestPriority
from tests.control_plane.parts import EMBED, Clock, Submitted, alarms_of, instance, manager, request, submit

DOCUMENT = 8000  # tokens: 240 ms at 0.03 ms
SPARED_AT = 1000.12 + 0.12 / LEAST - 0.12  # see ``losing``


def losing(
    clock: Clock, *instances: ExecutionInstance, share: float = LEAST, policy: str = "hybrid"
) -> Scheduler:
    """Each instance has a stream whose prompt took it 120 ms, and its streams have lost their SLO."""
    m = manager(*instances, policy=policy, clock=clock)
    for each in instances:
        each.load.prompt_share = share
    running = [submit(m, request(i.instance_id, 3000, arrived=clock.now)) for i in instances]
    clock.now += 0.12
    for first in running:
        m.first_byte(first)
    return m


def document(m: Scheduler, clock: Clock, tokens: int = DOCUMENT) -> Submitted:
    return submit(m, request("document", tokens, arrived=clock.now))


def test_a_long_prompt_in_time_waits_until_prompts_had_no_more_than_their_share() -> None:
    clock, a = Clock(), instance("a")
    m = losing(clock, a)
    alarms = alarms_of(m)
    waits = document(m, clock)
    assert waits.where is None
    assert alarms == [pytest.approx(SPARED_AT)]
    clock.now = alarms[-1]
    m.dispatch()
    assert waits.where is a
    assert a.load.overdue == 0  # it may be in time, so its stream counts


@pytest.mark.parametrize("tokens", [10, 3000])
def test_short_prompts_pass(tokens: int) -> None:
    clock, a = Clock(), instance("a")
    m = losing(clock, a)
    waits = document(m, clock)
    assert submit(m, request("chat", tokens, arrived=clock.now)).where is a
    assert waits.where is None


@pytest.mark.parametrize("share", [HARMED, 0.6])
def test_while_streams_keep_their_slo_a_long_prompt_goes_at_once(share: float) -> None:
    clock, a = Clock(), instance("a")
    m = losing(clock, a, share=share)
    assert document(m, clock).where is a


def test_one_good_stream_does_not_end_it() -> None:
    clock, a = Clock(), instance("a")
    m = losing(clock, a, share=LEAST + BACK)
    assert document(m, clock).where is None


def test_it_goes_where_streams_keep_their_slo() -> None:
    clock, a, b = Clock(), instance("a"), instance("b")
    m = losing(clock, a, b)
    b.load.prompt_share, b.load.spares_from = 0.6, 0.0
    assert document(m, clock).where is b


@pytest.mark.parametrize("gone", ["it failed there", "it is not ready"])
def test_an_instance_without_streams_is_no_way_out_if_the_others_are_better(gone: str) -> None:
    clock, a, b = Clock(), instance("a"), instance("b")
    m = losing(clock, a, b)
    b.load.prompt_share, b.load.spares_from = 0.6, 0.0  # only there would it harm no stream
    if gone == "it failed there":
        first = document(m, clock)
        assert first.where is b
        m.release(first)
        first.tried, first.where = (b,), None
        m.retry(first)
        waits = first
    else:
        b.state = EngineState.EJECTED
        waits = document(m, clock)
    assert waits.where is None
    clock.now = SPARED_AT + 1
    m.dispatch()
    assert waits.where is a


def test_no_stream_no_harm() -> None:
    clock, a = Clock(), instance("a")
    a.load.prompt_share, a.load.spares_from = LEAST, clock.now + 5.0
    assert document(manager(a, clock=clock), clock).where is a


def test_a_mostly_cached_prompt_is_a_short_one() -> None:
    clock, a, b = Clock(), instance("a"), instance("b")
    m = losing(clock, a, b)
    blocks = range(125)
    m._selector.prefixes.add(a, request("same", DOCUMENT, blocks=blocks))
    assert submit(m, request("again", DOCUMENT, arrived=clock.now, blocks=blocks)).where is a


@pytest.mark.parametrize("policy", ["fifo", "priority", "least_loaded", "round_robin"])
def test_an_order_that_puts_nobody_behind_the_others_knows_none_of_it(policy: str) -> None:
    clock, a = Clock(), instance("a")
    assert document(losing(clock, a, policy=policy), clock).where is a


@pytest.mark.parametrize("policy", ["fifo", "priority", "least_loaded", "round_robin"])
def test_a_prompt_that_stands_back_goes_when_the_order_changes(policy: str) -> None:
    clock, a = Clock(), instance("a")
    m = losing(clock, a)
    waits = document(m, clock)
    assert waits.where is None
    m.use(policy_named(policy, clock))
    m.dispatch()
    assert waits.where is a


def test_embeddings_take_no_part_of_the_share() -> None:
    clock, a = Clock(), instance("a", route=EMBED)
    a.load.prompt_share, a.load.spares_from, a.active_requests = LEAST, clock.now + 5.0, 1
    m = manager(a, instance("b", 1, route=EMBED), clock=clock)
    assert submit(m, request("texts", DOCUMENT, arrived=clock.now, route=EMBED)).where is not None


def test_without_late_binding_all_go_at_once() -> None:
    clock, a = Clock(), instance("a", window=float("inf"))
    assert document(losing(clock, a), clock).where is a


def test_a_prompt_that_is_measured_after_sending_is_measured_before() -> None:
    clock, a = Clock(), instance("a")
    m = losing(clock, a)
    long, short = request("long", arrived=clock.now), request("short", arrived=clock.now)
    long.prompt_tokens = short.prompt_tokens = 0
    long.prompt_bytes, short.prompt_bytes = DOCUMENT, 1000
    assert not m.goes_at_once(long, (a,))
    assert m.goes_at_once(short, (a,))


def test_with_time_left_it_returns_among_those_in_time_once_streams_are_well() -> None:
    clock, a = Clock(), instance("a")
    m = losing(clock, a)
    a.load.spares_from = clock.now + 60.0
    waits = submit(m, request("document", DOCUMENT, arrived=clock.now, priority=RequestPriority.BACKGROUND))
    assert waits.where is None
    a.load.prompt_share = 0.6
    clock.now += REVIEW_S
    m.dispatch()
    assert waits.where is a


def test_a_long_prompt_that_stands_back_is_due_like_others() -> None:
    clock, a = Clock(), instance("a")
    m = losing(clock, a)
    waits = document(m, clock)
    for turn in range(400):
        clock.now += 0.05
        a.load.spares_from = clock.now + 5.0
        chat = submit(m, request(turn, 1000, arrived=clock.now))
        if waits.where is not None:
            return
        m.first_byte(chat)
        m.release(chat)
    pytest.fail("never served")


def test_many_stand_back_in_pieces() -> None:
    clock, a = Clock(), instance("a", 2)
    m = losing(clock, a)
    full = submit(m, request("full", 100, arrived=clock.now))
    m.first_byte(full)
    waiting = [submit(m, request(n, DOCUMENT, arrived=clock.now)) for n in range(3 * PIECE)]
    assert not any(each.place.stands_back for each in waiting)
    a.load.spares_from = clock.now + 0.5
    m.release(full)
    assert sum(each.place.stands_back for each in waiting) == PIECE
    for _ in range(3):
        m.dispatch()
    assert all(each.place.stands_back for each in waiting)
