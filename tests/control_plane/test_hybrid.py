"""Sticky until saturated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sage_inference.control_plane.cost import backlog_ms, cost_ms, even_paces
from sage_inference.control_plane.policies import Hybrid, hybrid_with
from sage_inference.types import ExecutionInstance, RequestType, SchedulingRequest
from tests.control_plane.parts import Clock, instance, request
from tests.support.cpu import cpu_time


def chosen(what: SchedulingRequest, *instances: ExecutionInstance) -> str:
    """By ``schedule`` of one and of several, which must agree."""
    alone = Hybrid(Clock()).schedule((what,), instances)[0].target_instance_id
    other = SchedulingRequest("other", what.request_type, "m", prompt_tokens=0)
    assert Hybrid(Clock()).schedule((what, other), instances)[0].target_instance_id == alone
    return alone


def warm(tokens: int, **cached: int) -> tuple[SchedulingRequest, list[ExecutionInstance]]:
    instances = [instance(name) for name in "abcd"]
    what = request(tokens=tokens)
    what.cached_tokens = {i: cached[i.instance_id] for i in instances if i.instance_id in cached}
    return what, instances


def test_a_prompt_goes_where_it_is_cached_though_that_instance_is_busier() -> None:
    what, instances = warm(1000, b=900)
    for each in instances:
        each.active_requests = 1
    instances[1].active_requests = 8
    assert chosen(what, *instances) == "b"


def test_a_small_cached_part_is_not_worth_it() -> None:
    what, instances = warm(1000, b=290)
    instances[1].active_requests = 2
    assert chosen(what, *instances) != "b"


def test_a_prefix_that_saves_less_than_a_running_request_is_worth_its_tokens_alone() -> None:
    for cached, where in ((267, "b"), (266, "a")):
        what, instances = warm(300, b=cached)
        for each, running in zip(instances, (1, 2, 3, 3), strict=True):
            each.active_requests = running
        assert chosen(what, *instances) == where


def test_too_many_in_flight_is_saturated() -> None:
    what, instances = warm(1000, b=1000)
    for each in instances:
        each.active_requests = 1
    instances[1].active_requests = 10  # 1.5 · 1 + 8 = 9.5
    assert chosen(what, *instances) != "b"
    instances[1].active_requests = 9
    assert chosen(what, *instances) == "b"
    for each in instances:
        each.active_requests += 4  # 1.5 · 5 + 8 = 15.5
    assert chosen(what, *instances) == "b"


def test_a_prefix_that_most_instances_have_is_copied_to_the_idle_one() -> None:
    what, instances = warm(2100, a=2048, b=2048, c=2048)
    for each in instances[:3]:
        each.active_requests = 9  # no more than the mean of 6.75 times 1.5, and some
    assert chosen(what, *instances) == "d"


def test_instances_that_cost_nearly_the_same_take_turns() -> None:
    what, instances = warm(2100, a=2048, b=2048, c=2048, d=2048)
    for each, running in zip(instances, (40, 41, 42, 43), strict=True):
        each.active_requests = running
    policy = Hybrid(Clock())
    targets = [policy.schedule((what,), instances)[0].target_instance_id for _ in range(9)]
    assert targets == ["a", "b", "c"] * 3  # within 0.5 · 4 requests


@pytest.mark.parametrize("few", [1, 2, 3, 5, 15])
def test_every_instance_gets_its_part_of_the_requests_of_one_prefix(few: int) -> None:
    """However many of sixteen have it at first."""
    policy, instances = Hybrid(Clock()), [instance(f"i{n}") for n in range(16)]
    cached = dict.fromkeys(instances[:few], 2048)
    by_name = {each.instance_id: each for each in instances}
    for number in range(320):
        what = request(number, tokens=2100)
        what.cached_tokens = cached
        chosen_one = by_name[policy.schedule((what,), instances)[0].target_instance_id]
        chosen_one.active_requests += 1
        cached[chosen_one] = 2048
    running = [each.active_requests for each in instances]
    assert max(running) <= 1.5 * min(running) + 8 + 1


def test_an_idle_instance_takes_what_would_wait_for_the_first_prefill() -> None:
    what, instances = warm(2300, b=2048)
    instances[1].load.progress_at = 1000.0
    instances[1].active_requests, instances[1].load.pending_tokens = 1, 2300
    assert chosen(what, *instances) != "b"
    for each in instances:
        each.active_requests += 1
    assert chosen(what, *instances) == "b"  # nobody is idle


@pytest.mark.parametrize(
    ("held", "pace", "idle_pace", "running", "goes_to"),
    [
        (500, 0.09, 0.03, 0, "a"),  # 45 ms where it is cached, 30 ms on a faster instance
        (500, 0.09, 0.03, 1, "a"),
        (900, 0.2, 0.01, 0, "a"),
        (350, 0.06, 0.03, 0, "a"),  # 39 ms against 30
        (900, 0.09, 0.03, 0, "b"),  # 9 ms against 30
        (500, 0.03, 0.09, 0, "b"),
    ],
)
def test_a_faster_idle_instance_takes_what_the_only_holder_needs_longer_for(
    held: int, pace: float, idle_pace: float, running: int, goes_to: str
) -> None:
    what, instances = warm(1000, b=held)
    for each in instances:
        each.active_requests, each.load.ms_per_token = 1, pace
    instances[0].active_requests, instances[0].load.ms_per_token = 0, idle_pace
    instances[1].active_requests = running
    assert chosen(what, *instances) == goes_to


@pytest.mark.parametrize("holders", [1, 500, 1000])
@pytest.mark.parametrize("running", [0, 3, 20])
@pytest.mark.parametrize("pending", [0, 200_000])
def test_a_placement_among_a_thousand_instances_is_linear_in_them(
    holders: int, running: int, pending: int
) -> None:
    """However many have the prompt, and whether they are crowded, late or neither."""
    instances = [instance(f"i{n}") for n in range(1000)]
    for each in instances:
        each.active_requests, each.load.pending_tokens = running, pending
        each.load.progress_at = 1000.0
    what, policy = request(tokens=1000), Hybrid(Clock())
    what.cached_tokens = dict.fromkeys(instances[:holders], 900)
    took = []
    for _ in range(3):
        with cpu_time() as spent:
            assert policy.schedule((what,), instances)
        took.append(spent.seconds)
    assert min(took) < 0.1  # 2 ms; all pairs of them are 800


def test_paces_that_differ_by_chance_do_not_decide() -> None:
    what, instances = warm(1000)
    for each, pace in zip(instances, (0.030, 0.033, 0.027, 0.036), strict=True):
        each.load.ms_per_token = pace
    policy = Hybrid(Clock())
    targets = {policy.schedule((what,), instances)[0].target_instance_id for _ in range(12)}
    assert targets == set("abcd")


def test_a_slow_instance_counts_as_slow_as_it_is() -> None:
    what, instances = warm(1000)
    instances[0].load.ms_per_token = 0.09
    for each in instances[1:]:
        each.active_requests = 4
    assert chosen(what, *instances) != "a"  # 90 ms; the others 0.03 · (1000 + 4 · 267) = 62
    instances[0].load.ms_per_token = 0.03
    assert chosen(what, *instances) == "a"


def law(what: SchedulingRequest, instances: list[ExecutionInstance], now: float) -> set[str]:
    """The formula as the policy's docstring has it: those it may choose, where costs are equal."""
    room = [i for i in instances if not i.max_concurrent_requests or i.available_capacity > 0]
    if not room:
        return set()
    paces = dict(zip(instances, even_paces([i.load.ms_per_token for i in instances]), strict=True))
    cached = what.cached_tokens

    def backlog(i: ExecutionInstance) -> float:
        return backlog_ms(paces[i], i.load.pending_tokens, now - i.load.progress_at)

    def cost(i: ExecutionInstance) -> float:
        return cost_ms(paces[i], backlog(i), what.prompt_tokens - cached.get(i, 0), i.active_requests)

    def cost_of_all(i: ExecutionInstance) -> float:
        return paces[i] * what.prompt_tokens

    longest = max(cached.get(i, 0) for i in room)
    warm_ones = []
    if longest >= 267 and longest >= 0.3 * what.prompt_tokens:
        crowd = 1.5 * min(i.active_requests for i in room) + 8
        late = min(map(backlog, room)) + 4000
        warm_ones = [
            i
            for i in room
            if cached.get(i, 0) >= 0.8 * longest and i.active_requests <= crowd and backlog(i) <= late
        ]
    best = min(map(cost, warm_ones or room))
    if any(not i.active_requests and not i.load.pending_tokens and cost_of_all(i) < best for i in room):
        warm_ones, best = [], min(map(cost, room))
    best += 1e-9
    if warm_ones:
        return {i.instance_id for i in warm_ones if cost(i) - 0.5 * len(instances) * 267 * paces[i] <= best}
    return {i.instance_id for i in room if cost(i) <= best}


INSTANCES = st.lists(
    st.tuples(
        st.integers(0, 40),  # requests in flight
        st.sampled_from([0, 0, 8, 40]),  # the most there may be
        st.integers(0, 200_000),  # pending tokens
        st.floats(0.005, 0.5),  # ms a token
        st.floats(0.0, 10.0),  # seconds since it got on
        st.integers(0, 3000),  # cached tokens
    ),
    min_size=1,
    max_size=6,
)


@given(INSTANCES, st.integers(1, 4000), st.integers(0, 3))
def test_the_choice_is_the_formulas(
    drawn: list[tuple[int, int, int, float, float, int]], tokens: int, before: int
) -> None:
    """Alone, and behind others that the same call places."""
    instances, what = [], request("last", tokens=tokens)
    for number, (running, limit, pending, pace, since, held) in enumerate(drawn):
        one = instance(f"i{number}", limit)
        one.active_requests = running
        one.load.pending_tokens, one.load.ms_per_token = pending, pace
        one.load.progress_at = 1000.0 - since
        instances.append(one)
        if held:
            what.cached_tokens = {**what.cached_tokens, one: min(held, tokens)}
    others = [request(number, tokens=500) for number in range(before)]
    decisions = Hybrid(Clock()).schedule((*others, what), instances)
    by_name = {each.instance_id: each for each in instances}
    for decision in decisions:
        if decision.request_id == "last":
            assert decision.target_instance_id in law(what, instances, 1000.0)
            return
        target = by_name[decision.target_instance_id]
        target.active_requests += 1
        target.load.pending_tokens += 500
    assert not law(what, instances, 1000.0)


def test_a_backlog_over_four_seconds_longer_is_saturated() -> None:
    what, instances = warm(100_000, b=100_000)
    for each in instances:
        each.active_requests = 1
    instances[1].load.progress_at = 1000.0
    instances[1].load.pending_tokens = 133_000  # at 0.03 ms: 3990 ms
    assert chosen(what, *instances) == "b"
    instances[1].load.pending_tokens = 134_000
    assert chosen(what, *instances) != "b"


def test_of_several_that_hold_it_the_cheapest_wins_unless_it_holds_much_less() -> None:
    what, instances = warm(1000, a=900, b=800, c=500)
    for each in instances[:1]:
        each.active_requests = 5
    assert chosen(what, *instances) == "b"  # 800 ≥ 0.8 · 900; c is cheaper no more than it is warm


def test_the_cheapest_counts_backlog_prompt_and_what_runs() -> None:
    what, instances = warm(1000)
    for each, (running, pending, pace) in zip(
        instances, ((4, 0, 0.03), (0, 3000, 0.03), (0, 0, 0.1), (1, 0, 0.03)), strict=True
    ):
        each.active_requests, each.load.pending_tokens, each.load.ms_per_token = running, pending, pace
        each.load.progress_at = 1000.0
    assert chosen(what, *instances) == "d"


def test_idle_instances_share_the_work() -> None:
    policy, instances = Hybrid(Clock()), [instance(name) for name in "abcd"]
    targets = {policy.schedule((request(),), instances)[0].target_instance_id for _ in range(12)}
    assert targets == set("abcd")


def test_nothing_is_placed_where_all_are_full_or_there_is_none() -> None:
    full = instance("a", 1)
    full.active_requests = 1
    assert Hybrid(Clock()).schedule((request(),), [full]) == []
    assert Hybrid(Clock()).schedule((request(),), []) == []


def test_generation_can_be_left_to_another_policy_while_embeddings_go_where_they_cost_least() -> None:
    policy = hybrid_with("round_robin", Clock())
    instances = [instance("a"), instance("b")]
    instances[0].active_requests = 5
    texts = [replace(request(n), request_type=RequestType.EMBEDDING) for n in range(2)]
    chats = [request(n + 2) for n in range(2)]
    decisions = {
        one.request_id: one.target_instance_id for one in policy.schedule([*texts, *chats], instances)
    }
    assert {decisions[one.request_id] for one in texts} == {"b"}
    assert {decisions[one.request_id] for one in chats} == {"a", "b"}
    assert (policy.name, policy.order) == ("hybrid", "fifo")


@pytest.mark.parametrize("name", ["fifo", "priority", "slo_aware", "adaptive"])
def test_a_fallback_that_is_an_order_changes_the_order_alone(name: str) -> None:
    policy = hybrid_with(name)
    assert isinstance(policy, Hybrid)
    assert policy.order == name
    assert hybrid_with("hybrid").order == "adaptive"
