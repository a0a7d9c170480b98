"""Laws of the manager that hold under any sequence of events and any policy."""

from __future__ import annotations

import random
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sage_inference.control_plane.accounting.prompt_share import LEAST, MOST
from sage_inference.control_plane.instances.load import Placement, is_open
from sage_inference.control_plane.policies import POLICIES, PlacementPolicy, PowerOfTwo, Random, policy_named
from sage_inference.requests.rejection import Rejection
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    RequestPriority,
    SchedulingDecision,
    SchedulingRequest,
    Usage,
)
from tests.control_plane.parts import Clock, Submitted, alarms_of, instance, manager, request, submit

READY, EJECTED, DRAINING = EngineState.READY, EngineState.EJECTED, EngineState.DRAINING
PROMPTS = st.sampled_from([(), (1,), (1, 2, 3), (1, 2, 4, 5), (9, 8, 7)])


class Watched(Submitted):
    """Checks each placement against the states at that moment."""

    group: list[ExecutionInstance]

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        super().placed(instance, decision)
        assert self.request.model in instance.models
        assert self.request.route in instance.routes
        assert instance.state not in (DRAINING, EngineState.STOPPED)
        if instance in self.tried:  # again where it failed, only where no other is up
            assert not any(i.state is READY and i not in self.tried for i in self.group)
        if instance.state is not READY:  # a try that may fail, only where no healthy one is
            assert not any(i.state is READY for i in self.group)


class AnyEvents(RuleBasedStateMachine):
    """Requests come, begin, end, fail, leave; instances fall ill, drain, recover; policies change."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.instances = [
            instance("a", 2, window=500),
            instance("b", window=500),
            instance("c", 3, window=500),
            instance("other", 1, model="n", window=500),
        ]
        self.manager = manager(*self.instances, clock=self.clock, queue=12)
        self.alarms = alarms_of(self.manager)
        self.numbers = count()
        self.running: list[Submitted] = []
        self.waiting: list[Submitted] = []
        self.submitted = self.outcomes = 0

    def sort(self) -> None:
        """Who was placed or refused meanwhile."""
        self.running += [t for t in self.waiting if t.where]
        self.outcomes += sum(t.refusal is not None for t in self.waiting)
        self.waiting = [t for t in self.waiting if not t.where and not t.refusal]

    @rule(
        tokens=st.integers(0, 900),
        blocks=PROMPTS,
        model=st.sampled_from("mmmn"),
        tenant=st.sampled_from(["", "x", "y"]),
        priority=st.sampled_from(RequestPriority),
        deadline=st.sampled_from([None, None, None, 5.0, 5000.0]),
        streams=st.booleans(),
    )
    def comes(
        self,
        tokens: int,
        blocks: tuple[int, ...],
        model: str,
        tenant: str,
        priority: RequestPriority,
        deadline: float | None,
        streams: bool,
    ) -> None:
        submission = Watched(
            request(
                next(self.numbers),
                tokens,
                arrived=self.clock.now,
                model=model,
                tenant=tenant,
                priority=priority,
                blocks=blocks,
                deadline_ms=deadline,
                streams=streams,
            )
        )
        submission.group = [i for i in self.instances if model in i.models and i.state is not DRAINING]
        self.submitted += 1
        try:
            self.manager.submit(submission)
        except Rejection:
            assert submission.where is None
            assert submission.place is None
            self.outcomes += 1
        else:
            self.waiting.append(submission)
        self.sort()

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 99))
    def begins(self, pick: int) -> None:
        submission = self.running[pick % len(self.running)]
        self.manager.first_byte(submission)
        self.manager.first_byte(submission)  # twice is as good as once
        self.sort()

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 99), tokens=st.sampled_from([None, 0, 1, 9, 400]))
    def ends(self, pick: int, tokens: int | None) -> None:
        submission = self.running.pop(pick % len(self.running))
        self.manager.release(submission, None if tokens is None else Usage(10, tokens))
        self.manager.release(submission)
        self.outcomes += 1
        self.sort()

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 99))
    def fails(self, pick: int) -> None:
        submission = self.running.pop(pick % len(self.running))
        where = submission.where
        assert where is not None
        submission.tried += (where,)
        submission.where = None
        self.manager.release(submission)
        try:
            if not self.manager.can_retry(submission):
                raise Rejection  # type: ignore[call-arg]
            self.manager.retry(submission)
        except (Rejection, TypeError):
            self.outcomes += 1
        else:
            self.waiting.append(submission)
        self.sort()

    @precondition(lambda self: self.waiting)
    @rule(pick=st.integers(0, 99))
    def leaves(self, pick: int) -> None:
        submission = self.waiting.pop(pick % len(self.waiting))
        self.manager.withdraw(submission)
        self.manager.withdraw(submission)
        assert submission.place is None
        self.outcomes += 1
        self.sort()

    @rule(which=st.integers(0, 3), state=st.sampled_from([READY, READY, EJECTED, DRAINING]))
    def changes(self, which: int, state: EngineState) -> None:
        changed = self.instances[which]
        changed.state = state
        if state is not READY:
            self.manager.instance_down(changed)
        for submission in self.waiting:
            if isinstance(submission, Watched):
                submission.group = [
                    i
                    for i in self.instances
                    if submission.request.model in i.models and i.state is not DRAINING
                ]
        self.manager.registry.changed()
        self.manager.dispatch()
        self.sort()

    @rule(which=st.integers(0, 3), seconds=st.sampled_from([0.1, 3.0]))
    def streams_lose_their_slo(self, which: int, seconds: float) -> None:
        """From now on prompts of over 300 tokens or more stand back from this instance."""
        load = self.instances[which].load
        load.prompt_share, load.spares_from = LEAST, self.clock.now + seconds
        load.ms_per_token = 0.5

    @rule(name=st.sampled_from(POLICIES))
    def policy(self, name: str) -> None:
        policy: PlacementPolicy = policy_named(name, self.clock)
        if name == "random":
            policy = Random(random.Random(1))
        elif name == "power_of_two":
            policy = PowerOfTwo(random.Random(1))
        self.manager.use(policy)
        self.manager.dispatch()
        self.sort()

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.5, 3.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        """The alarm that was asked for is kept."""
        end = self.clock.now + seconds
        for at in sorted(self.alarms):
            if self.clock.now <= at <= end:
                self.clock.now = at
                self.manager.dispatch()
        self.clock.now = end
        self.alarms[:] = [at for at in self.alarms if at > end]
        self.manager.dispatch()  # it may ask for one that is due at once
        self.sort()

    @invariant()
    def every_request_has_one_state(self) -> None:
        assert self.submitted == self.outcomes + len(self.running) + len(self.waiting)
        assert self.manager.queued == len(self.waiting)
        assert self.manager.queued_bytes == sum(t.size for t in self.waiting)

    @invariant()
    def counters_are_those_of_running_requests(self) -> None:
        for each in self.instances:
            here = [t.place for t in self.running if t.where is each]
            assert all(isinstance(p, Placement) for p in here)
            assert each.active_requests == len(here)
            assert each.load.pending_tokens == sum(p.tokens for p in here if p.pending)
            assert not each.max_concurrent_requests or each.active_requests <= each.max_concurrent_requests

    @invariant()
    def nobody_waits_beside_an_idle_instance_but_who_is_held(self) -> None:
        for submission in self.waiting:
            if submission.tried or submission.place.reserved_for is not None:
                continue
            for each in self.instances:
                if (
                    submission.request.model in each.models
                    and each.state is READY
                    and not each.active_requests
                ):
                    pytest.fail(f"{submission.request.request_id} waits beside {each.instance_id}")

    @invariant()
    def shares_of_prompts_stay_within_their_bounds(self) -> None:
        assert all(LEAST <= each.load.prompt_share <= MOST for each in self.instances)

    @invariant()
    def the_shortest_in_time_does_not_wait_beside_room(self) -> None:
        """Under the order of hybrid; requests that were tried or are held wait for others."""
        waiting = [t for t in self.waiting if not t.tried and t.place.reserved_for is None]
        if self.manager.policy.order != "adaptive" or len({t.request.tenant for t in waiting}) > 1:
            return
        for model in "mn":
            live = [t for t in waiting if t.request.model == model and not t.place.overdue]
            if not live:
                continue
            first = min(live, key=lambda t: (t.place.key, t.request.arrived))
            for each in self.instances:
                if model in each.models and each.state is READY and first.request.request_type.is_llm:
                    assert not is_open(each, first.request.prompt_tokens)

    @invariant()
    def holds_end(self) -> None:
        held = [t for t in self.waiting if t.place.reserved_for is not None]
        assert not held or any(at <= self.clock.now + 1.0 for at in self.alarms)

    def teardown(self) -> None:
        for submission in self.waiting:
            self.manager.withdraw(submission)
        while self.running:
            self.ends(0, None)
        assert self.manager.queued == self.manager.queued_bytes == 0
        for each in self.instances:
            assert each.active_requests == each.load.pending_tokens == 0


AnyEvents.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestAnyEvents = AnyEvents.TestCase


@given(pending=st.integers(0, 20000), need=st.integers(0, 10**6), running=st.integers(0, 50))
def test_an_instance_with_nothing_pending_is_open(pending: int, need: int, running: int) -> None:
    each = instance("a")
    each.load.pending_tokens, each.active_requests = pending, running
    assert is_open(each, need) == (pending == 0 or pending + need <= 8192)


MIX = st.lists(
    st.tuples(st.integers(1, 3000), st.sampled_from(RequestPriority), st.sampled_from("xyz")),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=10, deadline=None)
@given(mix=MIX, victim=st.sampled_from(RequestPriority))
def test_everybody_is_served_in_the_end_under_any_mix(
    policy: str, mix: list[tuple[int, RequestPriority, str]], victim: RequestPriority
) -> None:
    """Two newcomers for each that ends, for ever, and our one request far behind its tenant's share."""
    clock = Clock()
    m = manager(instance("a", 1), policy=policy, clock=clock)
    m.tenants.charge("victim", 1e9)
    running = submit(m, request("first", arrived=clock.now))
    ours = submit(m, request("ours", 5000, arrived=clock.now, tenant="victim", priority=victim))
    queue: list[Submitted] = []
    for turn in range(1200):
        clock.now += 1.0
        for number in range(2):
            tokens, priority, tenant = mix[(2 * turn + number) % len(mix)]
            what = request(f"{turn}.{number}", tokens, arrived=clock.now, priority=priority, tenant=tenant)
            queue.append(submit(m, what))
        m.first_byte(running)
        m.release(running)
        if ours.where:
            return
        running = next(t for t in queue if t.where)
        queue.remove(running)
    pytest.fail("never served")


Work = list[tuple[int, tuple[int, ...], bool]]


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"random", "power_of_two", "session"}))
@settings(max_examples=15, deadline=None)
@given(work=st.lists(st.tuples(st.integers(1, 3000), PROMPTS, st.booleans()), max_size=40))
def test_renaming_instances_changes_nothing(policy: str, work: Work) -> None:
    assert _places(policy, work, "abc") == _places(policy, work, "zyx")


def _places(policy: str, work: Work, names: str) -> list[int | None]:
    clock = Clock()
    instances = [instance(name) for name in names]
    m = manager(*instances, policy=policy, clock=clock)
    submissions: list[Submitted] = []
    for number, (tokens, blocks, ends) in enumerate(work):
        clock.now += 0.01
        submissions.append(submit(m, request(number, tokens, arrived=clock.now, blocks=blocks)))
        if ends:
            oldest = next((t for t in submissions if isinstance(t.place, Placement)), None)
            if oldest:
                m.first_byte(oldest)
                m.release(oldest)
    return [instances.index(t.where) if t.where else None for t in submissions]


@pytest.mark.parametrize("policy", ["fifo", "hybrid", "round_robin"])
@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=30))
def test_with_one_tenant_and_one_class_the_queue_is_first_in_first_out(policy: str, sizes: list[int]) -> None:
    clock = Clock()
    m = manager(instance("a", 1), policy=policy, clock=clock)
    submissions = []
    for number, tokens in enumerate(sizes):
        clock.now += 0.001
        # Hybrid orders by slack: one deadline for all, and prompts of one size, are one order.
        size = tokens if policy != "hybrid" else 100
        submissions.append(submit(m, request(number, size, arrived=clock.now, tenant="only")))
    for submission in submissions:
        assert submission.where is not None
        m.first_byte(submission)
        m.release(submission)


@given(
    requests=st.lists(st.tuples(st.integers(0, 5000), st.booleans()), min_size=1, max_size=30),
    loads=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5),
)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_decision_is_its_own_requests_and_names_an_instance_with_room(
    policy: str, requests: list[tuple[int, bool]], loads: list[tuple[int, int]]
) -> None:
    instances = [instance(f"i{n}", limit) for n, (_, limit) in enumerate(loads)]
    for each, (running, _) in zip(instances, loads, strict=True):
        each.active_requests = running
    asked: list[SchedulingRequest] = []
    for number, (tokens, warm) in enumerate(requests):
        asked.append(request(number, tokens))
        if warm:
            asked[-1].cached_tokens = {instances[0]: tokens}
    decisions = policy_named(policy).schedule(asked, instances)
    assert [d.request_id for d in decisions] == [r.request_id for r in asked][: len(decisions)]
    for each in instances:
        taken = sum(d.target_instance_id == each.instance_id for d in decisions)
        assert taken <= each.available_capacity
    assert len(decisions) == min(len(asked), sum(i.available_capacity for i in instances))
