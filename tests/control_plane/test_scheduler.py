"""The scheduler's accounts: slots, queue, retries, refusals; by examples and by any sequence of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.accounting.rates import Rates, retry_after_s
from sage_inference.control_plane.accounting.retry_budget import may_retry
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.policies import LeastLoaded
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.control_plane.setup import SchedulerSettings
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    RequestType,
    SchedulingRequest,
)
from tests.control_plane import parts

CHAT = "/v1/chat/completions"


class Submitted(parts.Submitted):
    """A chat request by its number."""

    def __init__(self, number: int = 0, model: str = "m", size: int = 10) -> None:
        super().__init__(SchedulingRequest(f"r{number}", RequestType.LLM_CHAT, model, CHAT), size)


def instance(
    name: str, limit: int = 1, state: EngineState = EngineState.READY, model: str = "m"
) -> ExecutionInstance:
    return ExecutionInstance(
        name, "h", 1, models=(model,), routes=frozenset({CHAT}), max_concurrent_requests=limit, state=state
    )


def manager(*instances: ExecutionInstance, queue: int = 10, size: int = 10_000) -> Scheduler:
    registry = Registry()
    for each in instances:
        registry.add(each)
    settings = SchedulerSettings(LimitSettings(queue_requests=queue, queue_bytes=size))
    return Scheduler(registry, LeastLoaded(), settings, clock=lambda: 0.0)


def submit(m: Scheduler, submission: Submitted) -> Submitted:
    m.submit(submission)
    return submission


def test_a_second_instance_of_a_model_joins_the_first() -> None:
    a, b = instance("a"), instance("b")
    m = manager(a, b)
    assert {submit(m, Submitted(n)).where for n in range(2)} == {a, b}


def test_a_second_instance_of_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="exists already"):
        manager(instance("a"), instance("a"))


def test_requests_wait_for_a_slot_in_order_of_arrival() -> None:
    a = instance("a")
    m = manager(a)
    first, second, third = (submit(m, Submitted(n)) for n in range(3))
    assert (first.where, second.where, m.queued) == (a, None, 2)
    m.release(first)
    assert (second.where, third.where, m.queued, a.active_requests) == (a, None, 1, 1)


def test_a_full_group_does_not_hold_up_another() -> None:
    a, b = instance("a"), instance("b", model="n")
    m = manager(a, b)
    submit(m, Submitted(0))
    on_n = submit(m, Submitted(1, "n"))
    waiting_m, waiting_n = submit(m, Submitted(2)), submit(m, Submitted(3, "n"))
    m.release(on_n)
    assert (waiting_m.where, waiting_n.where) == (None, b)


def test_an_unknown_model_is_refused_and_never_sent_to_another() -> None:
    with pytest.raises(Rejection) as refusal:
        manager(instance("a")).submit(Submitted(model="gpt-9"))
    assert refusal.value.reason is Reason.UNKNOWN_MODEL
    assert "served now: m" in refusal.value.message


def test_a_queue_is_bounded_by_count_and_by_bytes() -> None:
    for limits in ({"queue": 1}, {"size": 15}):
        m = manager(instance("a"), **limits)
        submit(m, Submitted(0))
        submit(m, Submitted(1))
        with pytest.raises(Rejection) as refusal:
            m.submit(Submitted(2))
        assert refusal.value.reason is Reason.QUEUE_FULL
        assert (refusal.value.retry_after_s or 0) >= 1


@pytest.mark.parametrize("state", [EngineState.EJECTED, EngineState.STARTING])
def test_an_unhealthy_instance_is_used_only_where_no_healthy_one_is(state: EngineState) -> None:
    sick, well = instance("sick", 9, state), instance("well", 9)
    m = manager(sick, well)
    assert [submit(m, Submitted(n)).where for n in range(3)] == [well] * 3
    well.state = EngineState.EJECTED
    sick.active_requests = 0
    assert submit(m, Submitted(9)).where is sick  # a try that may fail beats a certain 503


def test_a_draining_instance_gets_nothing_new() -> None:
    a = instance("a", state=EngineState.DRAINING)
    with pytest.raises(Rejection) as refusal:
        manager(a).submit(Submitted())
    assert refusal.value.reason is Reason.NO_HEALTHY_INSTANCE


def test_a_retry_goes_elsewhere_and_never_back_while_another_is_up() -> None:
    a, b = instance("a", 9), instance("b", 9)
    m = manager(a, b)
    submission = submit(m, Submitted())
    first = submission.where
    assert first is not None
    submission.tried, submission.where = (first,), None
    assert m.can_retry(submission)
    m.release(submission)
    m.retry(submission)
    assert {first, submission.where} == {a, b}
    submission.tried = (a, b)
    assert not m.can_retry(submission)


def test_the_requests_of_a_lost_instance_may_go_to_a_healthy_one_when_the_budget_is_spent() -> None:
    a, b = instance("a", 9), instance("b", 9)
    m = manager(a, b)
    m.rates.retried = 1000
    submission = submit(m, Submitted())
    submission.tried = (a,)
    assert not m.can_retry(submission)
    a.state = EngineState.EJECTED
    assert m.can_retry(submission)
    b.state = EngineState.EJECTED  # nobody is well: now it would be a storm
    assert not m.can_retry(submission)


def test_what_waits_for_a_removed_model_is_refused() -> None:
    a = instance("a")
    m = manager(a, instance("b", model="n"))
    submit(m, Submitted(0))
    waiting = submit(m, Submitted(1))
    m.registry.remove("a")
    m.dispatch()
    assert waiting.refusal is not None
    assert m.queued == 0


def test_retries_stay_within_a_fifth_of_recent_requests_and_ten() -> None:
    rates = Rates()
    rates.tick(0.0)
    rates.submitted, rates.retried = 100, 29
    assert may_retry(rates)
    rates.retried = 30
    assert not may_retry(rates)
    for second in range(1, 12):  # the window passes
        rates.tick(float(second))
    assert may_retry(rates)


@pytest.mark.parametrize(("ahead", "rate", "seconds"), [(10, 0, 5), (10, 5, 2), (1, 100, 1), (9999, 1, 60)])
def test_retry_after_is_the_time_the_queue_takes(ahead: int, rate: float, seconds: int) -> None:
    assert retry_after_s(ahead, rate) == seconds


class AnySequence(RuleBasedStateMachine):
    """Whatever happens in whatever order, the accounts balance."""

    def __init__(self) -> None:
        super().__init__()
        self.instances = [instance("a", 1), instance("b", 2)]
        self.manager = manager(*self.instances, queue=4)
        self.submissions: list[Submitted] = []

    @rule()
    def submit(self) -> None:
        submission = Submitted(len(self.submissions))
        try:
            self.manager.submit(submission)
        except Rejection:
            return
        self.submissions.append(submission)

    @precondition(lambda self: any(t.where for t in self.submissions))
    @rule(pick=st.integers(0, 99))
    def finish(self, pick: int) -> None:
        running = [t for t in self.submissions if t.where]
        submission = running[pick % len(running)]
        self.submissions.remove(submission)
        self.manager.release(submission)

    @precondition(lambda self: any(not t.where for t in self.submissions))
    @rule(pick=st.integers(0, 99))
    def leave(self, pick: int) -> None:
        waiting = [t for t in self.submissions if not t.where]
        submission = waiting[pick % len(waiting)]
        self.manager.withdraw(submission)
        self.manager.withdraw(submission)  # twice is as good as once
        self.submissions.remove(submission)

    @rule(which=st.integers(0, 1), state=st.sampled_from([EngineState.READY, EngineState.EJECTED]))
    def health(self, which: int, state: EngineState) -> None:
        self.instances[which].state = state
        self.manager.dispatch()

    @invariant()
    def slots_are_those_of_running_requests(self) -> None:
        for each in self.instances:
            assert each.active_requests == sum(t.where is each for t in self.submissions)
            assert each.active_requests <= each.max_concurrent_requests

    @invariant()
    def the_queue_holds_those_that_wait(self) -> None:
        waiting = [t for t in self.submissions if not t.where]
        assert self.manager.queued == len(waiting)
        assert self.manager.queued_bytes == sum(t.size for t in waiting)

    @invariant()
    def nobody_waits_beside_a_free_healthy_slot(self) -> None:
        if self.manager.queued:
            assert not any(i.is_available and i.available_capacity for i in self.instances)


AnySequence.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnySequence = AnySequence.TestCase
