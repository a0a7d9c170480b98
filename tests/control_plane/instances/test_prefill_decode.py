"""Prefilling and decoding instances: who takes which leg, and laws of the two legs under any sequence of events."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.instances.prefill_decode import (
    DECODE,
    PREFILL,
    decode_leg,
    eligible,
    leg_of,
    original_of,
    prefill_leg,
)
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import EngineState, ExecutionInstance, ExecutionInstanceType, SchedulingDecision
from tests.control_plane.parts import CHAT, Clock, Submitted, alarms_of, instance, manager, request, submit

READY, EJECTED, DRAINING = EngineState.READY, EngineState.EJECTED, EngineState.DRAINING
KINDS = {"p": ExecutionInstanceType.PREFILLING, "d": ExecutionInstanceType.DECODING}


def of(name: str, limit: int = 0) -> ExecutionInstance:
    """Named by its kind: ``p1``, ``d1``, and anything else does all. Small letters are well, capitals ejected."""
    made = instance(name, limit, window=500)
    made.instance_type = KINDS.get(name[0].lower(), ExecutionInstanceType.GENERAL)
    made.state = READY if name[0].islower() else EJECTED
    return made


@pytest.mark.parametrize(
    ("fleet", "prefill", "decode", "whole"),
    [
        ("p1 p2 d1 d2", "p1 p2", "d1 d2", "d1 d2"),
        ("p1 P2 d1 D2", "p1 P2", "d1 D2", "d1 D2"),
        ("p1 d1 g1", "p1", "d1", "g1"),
        ("p1 d1 G1", "p1", "d1", "d1"),
        ("P1 d1", "d1", "d1", "d1"),
        ("P1 d1 g1", "g1", "d1", "g1"),
        ("p1 D1 g1", "g1", "D1", "g1"),
        ("p1 D1 G1", "G1 D1", "D1", "G1 D1"),
        ("p1 D1", "D1", "D1", "D1"),
        ("p1", "", "", ""),
        ("d1", "d1", "d1", "d1"),
    ],
)
def test_who_takes_what(fleet: str, prefill: str, decode: str, whole: str) -> None:
    serving = [of(name) for name in fleet.split()]
    for route, wanted in ((CHAT + PREFILL, prefill), (CHAT + DECODE, decode), (CHAT, whole)):
        assert " ".join(i.instance_id for i in eligible(serving, route)) == wanted


@given(names=st.lists(st.sampled_from(["p", "P", "d", "D", "g", "G"]), max_size=6))
def test_a_prefilling_instance_takes_prompts_only_and_the_healthy_go_first(names: list[str]) -> None:
    serving = [of(f"{name}{number}") for number, name in enumerate(names)]
    writers = [i for i in serving if i.instance_type is not KINDS["p"]]
    for leg in ("", PREFILL, DECODE):
        found = eligible(serving, CHAT + leg)
        assert bool(found) == bool(writers)
        assert leg == PREFILL or set(found) <= set(writers)
        if leg != DECODE and any(i.state is READY for i in writers):
            assert any(i.state is READY for i in found)
    assert eligible(serving, "/tokenize") == tuple(serving)


def test_the_prompts_leg_teaches_the_pace_and_the_other_adds_no_prompt() -> None:
    clock = Clock()
    p, d = of("p"), of("d")
    m = manager(p, d, clock=clock)
    whole = request(tokens=1000, streams=False, blocks=(1, 2, 3))
    first = submit(m, Submitted(prefill_leg(whole)).request)
    assert (first.where, p.load.pending_tokens) == (p, 1000)
    before = p.load.ms_per_token
    clock.now += 1.0
    m.first_byte(first)
    assert p.load.ms_per_token > before
    m.release(first)
    second = submit(m, decode_leg(whole))
    assert (second.where, d.load.pending_tokens, d.active_requests, p.active_requests) == (d, 1, 1, 0)
    pace = d.load.ms_per_token
    clock.now += 1.0
    m.first_byte(second)
    assert d.load.ms_per_token == pace
    assert (original_of(second.request), leg_of(second.request), leg_of(whole)) == (whole, "decode", None)


def test_a_prompt_goes_where_its_beginning_is_cached_and_the_rest_where_least_runs() -> None:
    p1, p2, d1, d2 = of("p1"), of("p2"), of("d1"), of("d2")
    m = manager(p1, p2, d1, d2)
    where = set()
    for number in range(4):
        whole = request(number, 300, blocks=(1, 2, 3, 4))
        first = submit(m, prefill_leg(whole))
        where.add(first.where)
        m.first_byte(first)
        m.release(first)
        submit(m, decode_leg(whole))
    assert len(where) == 1
    assert (d1.active_requests, d2.active_requests) == (2, 2)


def test_prefilling_instances_alone_are_a_503() -> None:
    with pytest.raises(Rejection) as refused:
        submit(manager(of("p")), request())
    assert refused.value.reason is Reason.NO_HEALTHY_INSTANCE


class LegTicket(Submitted):
    """Checks each placement against the states at that moment."""

    everyone: tuple[ExecutionInstance, ...] = ()

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        super().placed(instance, decision)
        leg, kind = leg_of(self.request), instance.instance_type
        assert kind is not KINDS["p"] or leg == "prefill"
        assert instance.state not in (DRAINING, EngineState.STOPPED)
        group = eligible([i for i in self.everyone if i.state is not DRAINING], self.request.route)
        assert instance in group
        if instance.state is not READY:
            assert not any(i.state is READY for i in group)


class TwoLegs(RuleBasedStateMachine):
    """Requests come, go on to their second leg, end, leave; instances fall ill, drain, recover."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.instances = tuple(of(name, 2) for name in ("p1", "p2", "d1", "d2", "g1"))
        self.manager = manager(*self.instances, clock=self.clock, queue=8)
        alarms_of(self.manager)
        self.numbers = count()
        self.running: list[LegTicket] = []
        self.waiting: list[LegTicket] = []
        self.submitted = self.outcomes = 0

    def sort(self) -> None:
        self.running += [t for t in self.waiting if t.where]
        self.outcomes += sum(t.refusal is not None for t in self.waiting)
        self.waiting = [t for t in self.waiting if not t.where and not t.refusal]

    @rule(tokens=st.integers(0, 900), split=st.booleans(), streams=st.booleans())
    def comes(self, tokens: int, split: bool, streams: bool) -> None:
        whole = request(next(self.numbers), tokens, arrived=self.clock.now, streams=streams)
        submission = LegTicket(prefill_leg(whole) if split else whole)
        submission.everyone = self.instances
        self.submitted += 1
        try:
            self.manager.submit(submission)
        except Rejection:
            self.outcomes += 1
        else:
            self.waiting.append(submission)
        self.sort()

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 99))
    def goes_on(self, pick: int) -> None:
        """Its answer came: the end, unless it was a prompt's."""
        submission = self.running.pop(pick % len(self.running))
        assert submission.where is not None
        was_prompt = submission.where.instance_type is KINDS["p"]
        self.manager.first_byte(submission)
        self.manager.release(submission)
        submission.where = None
        if was_prompt:
            submission.request = decode_leg(original_of(submission.request))
            try:
                self.manager.go_on(submission)
            except Rejection:
                self.outcomes += 1
            else:
                self.waiting.append(submission)
        else:
            self.outcomes += 1
        self.sort()

    @precondition(lambda self: self.waiting)
    @rule(pick=st.integers(0, 99))
    def leaves(self, pick: int) -> None:
        self.manager.withdraw(self.waiting.pop(pick % len(self.waiting)))
        self.outcomes += 1
        self.sort()

    @rule(which=st.integers(0, 4), state=st.sampled_from([READY, READY, EJECTED, DRAINING]))
    def changes(self, which: int, state: EngineState) -> None:
        self.instances[which].state = state
        self.manager.registry.changed()
        self.manager.dispatch()
        self.sort()

    @rule(seconds=st.sampled_from([0.02, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.manager.dispatch()
        self.sort()

    @invariant()
    def every_request_has_one_state_and_one_slot_at_a_time(self) -> None:
        assert self.submitted == self.outcomes + len(self.running) + len(self.waiting)
        assert self.manager.queued == len(self.waiting)
        for each in self.instances:
            here = [t.place for t in self.running if t.where is each]
            assert all(isinstance(p, Placement) for p in here)
            assert each.active_requests == len(here) <= 2
            assert each.load.pending_tokens == sum(p.tokens for p in here if p.pending)

    def teardown(self) -> None:
        while self.waiting or self.running:  # who leaves or ends may let others in
            if self.waiting:
                self.leaves(0)
            else:
                self.goes_on(0)
        assert self.manager.queued == 0
        for each in self.instances:
            assert each.active_requests == each.load.pending_tokens == 0


TwoLegs.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestTwoLegs = TwoLegs.TestCase
