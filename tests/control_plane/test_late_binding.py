"""What waits in the gateway rather than in an engine, for how long, and who may pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sage_inference.control_plane.queue.patience import reserved_s
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    RequestPriority,
    SchedulingDecision,
    SchedulingRequest,
)
from tests.control_plane.parts import Clock, alarms_of, instance, manager, request, submit

BIG = 8000
PREFIX = (1, 2, 3, 4, 5)  # of 64 tokens each


def test_beyond_its_window_an_instance_gets_no_more_until_a_first_byte() -> None:
    m = manager(instance("a"))
    first, second, third = (submit(m, request(n, 4000)) for n in range(3))
    assert (first.where is None, second.where is None, third.where is None) == (False, False, True)
    m.first_byte(first)
    assert third.where is not None


def test_a_prompt_larger_than_the_window_goes_to_an_instance_with_nothing_pending() -> None:
    a = instance("a")
    m = manager(a)
    assert submit(m, request(0, 100_000)).where is a


def test_without_late_binding_all_goes_on_at_once() -> None:
    m = manager(instance("a", window=float("inf")))
    assert all(submit(m, request(n, BIG)).where for n in range(50))


def test_an_answer_that_is_not_streamed_does_not_hold_up_the_next_until_its_end() -> None:
    clock = Clock()
    m = manager(instance("a"), clock=clock)
    alarms = alarms_of(m)
    submit(m, request(0, BIG, streams=False))
    second = submit(m, request(1, BIG, streams=False))
    assert second.where is None
    assert alarms == [pytest.approx(1000.0 + BIG * 0.03 / 1000)]
    clock.now = alarms[0]
    m.dispatch()
    assert second.where is not None


def held(clock: Clock) -> tuple[ExecutionInstance, ExecutionInstance, object]:
    """a holds the prefix and is closed, b has work but no prompt to begin."""
    a, b = instance("a"), instance("b")
    m = manager(a, b, clock=clock)
    first = submit(m, request("first", 320, blocks=PREFIX))
    where = first.where
    assert where is not None
    other = b if where is a else a
    m.first_byte(first)
    where.load.pending_tokens = 9000
    other.active_requests = 1
    return where, other, m


def test_a_request_is_not_held_while_an_instance_is_idle() -> None:
    clock = Clock()
    _, idle, m = held(clock)
    idle.active_requests = 0
    assert submit(m, request("goes", 328, blocks=PREFIX)).where is idle  # type: ignore[arg-type]


def test_a_request_is_held_for_the_instance_that_has_its_prompt_and_others_pass_it() -> None:
    clock = Clock()
    warm, cold, m = held(clock)
    waits = submit(m, request("waits", 328, blocks=PREFIX))  # type: ignore[arg-type]
    passes = submit(m, request("passes", 200))  # type: ignore[arg-type]
    assert (waits.where, passes.where) == (None, cold)
    warm.load.pending_tokens = 0
    m.dispatch()  # type: ignore[attr-defined]
    assert waits.where is warm


@pytest.mark.parametrize(
    ("priority", "patience"),
    [(RequestPriority.NORMAL, (1.0 - 328 * 0.03 / 1000) / 2), (RequestPriority.LOW, 1.0)],
    ids=["half of what it can lose", "a second at most"],
)
def test_it_is_held_only_while_it_can_still_be_in_time_elsewhere(
    priority: RequestPriority, patience: float
) -> None:
    clock = Clock()
    _, cold, m = held(clock)
    alarms = alarms_of(m)  # type: ignore[arg-type]
    waits = submit(m, request("waits", 328, blocks=PREFIX, priority=priority))  # type: ignore[arg-type]
    clock.now += patience - 0.01
    m.dispatch()  # type: ignore[attr-defined]
    assert waits.where is None
    clock.now = alarms[-1]
    assert clock.now == pytest.approx(1000.0 + patience)
    m.dispatch()  # type: ignore[attr-defined]
    assert waits.where is cold


@pytest.mark.parametrize(
    ("tokens", "pending", "since_s", "elsewhere", "goes_warm"),
    [
        (20_000, 9000, 0.1, 0, True),  # 170 ms and its own 24 ms, against 600 ms
        (20_000, 15_000, 0.1, 0, True),
        (20_000, 15_700, 0.1, 0, False),  # with its 800 tokens more than two windows
        (20_000, 9000, 0.3, 0, False),  # should have begun all it has, and has not
        (7000, 9000, 0.08, 0, False),  # 214 ms there, 210 ms elsewhere
        (7000, 9000, 0.08, 1000, True),  # 240 ms elsewhere, with what waits there
    ],
)
def test_when_its_hold_ends_a_request_goes_where_it_is_answered_sooner(
    tokens: int, pending: int, since_s: float, elsewhere: int, goes_warm: bool
) -> None:
    """The warm instance is closed all the time. At 0.03 ms a token, with windows of 8,192 tokens."""
    clock = Clock()
    warm, cold, m = held(clock)
    cached = tuple(range((tokens - 800) // 64))
    m._selector.prefixes.add(warm, request(blocks=cached))  # type: ignore[attr-defined]
    alarms = alarms_of(m)  # type: ignore[arg-type]
    waits = submit(m, request("waits", tokens, blocks=cached))  # type: ignore[arg-type]
    assert waits.where is None
    clock.now = alarms[-1]
    warm.load.pending_tokens, warm.load.progress_at = pending, clock.now - since_s
    cold.load.pending_tokens, cold.load.progress_at = elsewhere, clock.now
    m.dispatch()  # type: ignore[attr-defined]
    assert waits.where is (warm if goes_warm else cold)


class FollowsTheCache:
    """A policy of a user's own that heeds no limit."""

    name, order, sticky = "mine", "adaptive", True

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        (one,) = requests
        best = max(instances, key=lambda each: one.cached_tokens.get(each, 0))
        return [SchedulingDecision(one.request_id, best.instance_id, "mine")]


def test_after_its_hold_no_request_goes_beyond_the_limit_of_an_instance() -> None:
    clock, blocks = Clock(), tuple(range(100))
    full, cold = instance("a", 2), instance("b", 20)
    m = manager(full, cold, clock=clock)
    m.use(FollowsTheCache())
    m._selector.prefixes.add(full, request(blocks=blocks))
    for number in range(2):
        submit(m, request(number, 7900, blocks=blocks))
    waiting = [submit(m, request(f"w{number}", 6500, blocks=blocks)) for number in range(6)]
    full.load.ms_per_token = cold.load.ms_per_token = 0.5
    clock.now += 1.01
    m.dispatch()
    assert full.active_requests == 2
    assert any(each.where is cold for each in waiting)


def test_one_that_could_be_in_time_nowhere_else_is_held_for_the_full_second() -> None:
    assert reserved_s(request(0, 50_000), (instance("a"),), 1000.0) == 1.0


def test_who_is_held_for_an_instance_that_dies_goes_elsewhere_at_once() -> None:
    clock = Clock()
    warm, cold, m = held(clock)
    waits = submit(m, request("waits", 328, blocks=PREFIX))  # type: ignore[arg-type]
    warm.state = EngineState.EJECTED
    m.instance_down(warm)  # type: ignore[attr-defined]
    m.registry.changed()  # type: ignore[attr-defined]
    m.dispatch()  # type: ignore[attr-defined]
    assert waits.where is cold


def test_a_policy_that_knows_no_prefixes_holds_nobody() -> None:
    a, b = instance("a"), instance("b")
    m = manager(a, b, policy="least_loaded")
    for each in (a, b):
        m._selector.prefixes.add(each, request(blocks=PREFIX))
    a.load.pending_tokens = 9000
    assert submit(m, request(0, 328, blocks=PREFIX)).where is b


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    m = manager(instance("a"))
    with pytest.raises(Rejection) as refused:
        submit(m, request(0, 10_000, deadline_ms=200))  # 300 ms at 0.03
    assert refused.value.reason is Reason.DEADLINE
    assert (refused.value.retry_after_s or 0) >= 1
    assert submit(m, request(1, 6000, deadline_ms=200)).where is not None


def test_a_deadline_that_passes_in_the_queue_ends_the_wait() -> None:
    clock = Clock()
    m = manager(instance("a", 1), clock=clock)
    alarms = alarms_of(m)
    submit(m, request(0))
    waits = submit(m, request(1, deadline_ms=500))
    assert alarms == [1000.5]
    clock.now = 1000.5
    m.dispatch()
    assert waits.refusal is not None
    assert waits.refusal.reason is Reason.DEADLINE
    assert m.queued == 0


@pytest.mark.parametrize("policy", ["priority", "hybrid"])
def test_the_policy_is_changed_without_losing_who_waits(policy: str) -> None:
    from sage_inference.control_plane.policies import policy_named

    clock = Clock()
    m = manager(instance("a", 1), policy="fifo", clock=clock)
    first = submit(m, request("first", arrived=1000.0))
    low = submit(m, request("low", arrived=1000.1, priority=RequestPriority.LOW))
    high = submit(m, request("high", arrived=1000.2, priority=RequestPriority.HIGH))
    m.use(policy_named(policy, clock))
    assert m.queued == 2
    m.release(first)
    assert (high.where is None, low.where is None) == (False, True)
    m.release(high)
    assert low.where is not None


def test_models_may_have_policies_of_their_own() -> None:
    from sage_inference.control_plane.policies import policy_named

    a, b = instance("a"), instance("b")
    m = manager(a, b)
    m.use(m.policy, {"m": policy_named("round_robin")})
    assert [submit(m, request(n)).where for n in range(4)] == [a, b, a, b]


def test_a_dispatch_does_not_look_at_the_whole_queue() -> None:
    """With 4,000 waiting, a release asks the policy about two at most."""
    clock = Clock()
    m = manager(instance("a", 1), instance("b", 1), clock=clock, queue=5000)
    running = [submit(m, request(n)) for n in range(2)]
    for n in range(4000):
        submit(m, request(f"w{n}", tenant=str(n % 50), arrived=clock.now))
    asked = 0
    schedule = m.policy.schedule

    def counted(*args: object) -> object:
        nonlocal asked
        asked += 1
        return schedule(*args)  # type: ignore[arg-type]

    m.policy.schedule = counted  # type: ignore[method-assign, assignment]
    m.release(running[0])
    assert m.queued == 3999
    assert asked <= 2


def test_a_request_behind_one_that_leaves_is_placed_if_it_needs_less() -> None:
    m = manager(instance("a"), policy="fifo")
    submit(m, request(0, 5000))
    large, small = submit(m, request(1, 6000)), submit(m, request(2, 100))
    assert (large.where, small.where) == (None, None)
    m.withdraw(large)
    assert small.where is not None


def test_a_short_prompt_passes_a_long_one_that_does_not_fit_yet() -> None:
    a = instance("a")
    m = manager(a)
    submit(m, request(0, 5000))
    large, small = submit(m, request(1, 6000)), submit(m, request(2, 100))
    assert (large.where, small.where) == (None, a)


def test_nobody_waits_behind_a_retry_that_may_not_go_where_there_is_room() -> None:
    a, b = instance("a"), instance("b")
    m = manager(a, b)
    b.load.pending_tokens = 9000
    failed = submit(m, request("failed"))
    assert failed.where is a
    failed.tried, failed.where = (a,), None
    m.release(failed)
    m.retry(failed)
    assert failed.where is None
    assert submit(m, request("next")).where is a
    b.load.pending_tokens = 0
    m.dispatch()
    assert failed.where is b


def test_a_retry_whose_other_instances_left_goes_where_it_failed_rather_than_nowhere() -> None:
    a, b = instance("a"), instance("b")
    m = manager(a, b)
    b.load.pending_tokens = 9000
    failed = submit(m, request("failed"))
    failed.tried, failed.where = (a,), None
    m.release(failed)
    m.retry(failed)
    m.registry.remove("b")
    m.dispatch()
    assert failed.where is a
