"""Choosing an instance for one request: who may be chosen, who goes before whom, and when a request has to wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.config.settings import POLICIES
from sage_inference.control_plane.accounting.prompt_share import can_spare
from sage_inference.control_plane.instances.load import is_open
from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.selector import Choice, Selector, healthy, uneven_models
from sage_inference.types import EngineState, ExecutionInstance, ExecutionInstanceType
from tests.control_plane.parts import CHAT, EMBED, Clock, Submitted, instance, request

NOW = 1000.0
READY = EngineState.READY
each_policy = pytest.mark.parametrize("policy", POLICIES)


@dataclass
class Engine:
    """How an instance stands when it may be chosen."""

    limit: int
    active: int
    pending: int
    state: EngineState

    def made(self, number: int) -> ExecutionInstance:
        made = instance(f"i{number}", self.limit, window=1000)
        made.active_requests = self.active
        made.load.pending_tokens = self.pending
        made.load.progress_at = NOW
        made.state = self.state
        return made


ENGINES = st.lists(
    st.builds(
        Engine,
        limit=st.sampled_from([0, 0, 2, 4]),
        active=st.integers(0, 4),
        pending=st.sampled_from([0, 0, 500, 1000, 5000]),
        state=st.sampled_from([READY, READY, READY, EngineState.EJECTED, EngineState.DRAINING]),
    ),
    min_size=1,
    max_size=4,
)
ROUTES = st.sampled_from([CHAT, EMBED])


def selector(policy: str = "hybrid") -> Selector:
    return Selector(policy_named(policy, Clock()))


def chosen(
    by: Selector, submission: Submitted, group: Sequence[ExecutionInstance], *, overdue: bool = False
) -> ExecutionInstance | None:
    choice: Choice | None = by.choose(submission, group, NOW, patient=False, overdue=overdue)
    if choice is None:
        return None
    decision, found, need = choice
    assert decision is not None, "only a patient request is held"
    assert decision.request_id == submission.request.request_id
    assert decision.target_instance_id == found.instance_id
    assert 0 <= need <= submission.request.prompt_tokens
    return found


@each_policy
@settings(max_examples=20)
@given(engines=ENGINES, tokens=st.sampled_from([0, 1, 600, 5000]), route=ROUTES, overdue=st.booleans())
def test_the_choice_is_of_the_group_and_has_room(
    policy: str, engines: list[Engine], tokens: int, route: str, overdue: bool
) -> None:
    group = [engine.made(number) for number, engine in enumerate(engines)]
    before = [(i.active_requests, i.load.pending_tokens, i.state) for i in group]
    found = chosen(selector(policy), Submitted(request(1, tokens, route=route)), group, overdue=overdue)
    assert [(i.active_requests, i.load.pending_tokens, i.state) for i in group] == before
    if found is not None:
        assert found in group
        assert is_open(found, tokens)
        assert not overdue or can_spare(found, tokens * found.load.ms_per_token, NOW)
        assert found.state is READY or all(i.state is not READY for i in group)


@each_policy
@settings(max_examples=12)
@given(engines=ENGINES, tokens=st.sampled_from([1, 600, 50_000]), place=st.integers(0, 4))
def test_no_request_waits_beside_a_healthy_instance_with_nothing_to_do(
    policy: str, engines: list[Engine], tokens: int, place: int
) -> None:
    group = [engine.made(number) for number, engine in enumerate(engines)]
    group.insert(min(place, len(group)), instance("idle"))
    assert chosen(selector(policy), Submitted(request(1, tokens)), group) is not None


@each_policy
def test_one_goes_elsewhere_than_where_it_failed_while_it_can(policy: str) -> None:
    group = [instance(name) for name in "abc"]
    submission = Submitted(request(1))
    for tried in ((), group[:1], group[:2]):
        submission.tried = tuple(tried)
        assert chosen(selector(policy), submission, group) not in tried
    submission.tried = tuple(group)
    assert chosen(selector(policy), submission, group) in group  # better than nowhere


def test_the_only_instance_of_a_model_gets_its_requests_whatever_its_state() -> None:
    for state in EngineState:
        only = instance("a")
        only.state = state
        assert chosen(selector(), Submitted(request(1)), [only]) is only


def test_where_none_is_healthy_any_is_asked_and_the_healthy_are_asked_alone() -> None:
    group = [instance(name) for name in "abc"]
    for each in group:
        each.state = EngineState.EJECTED
    assert healthy(group, ()) == group
    assert healthy(group, (group[0],)) == group[1:]
    group[2].state = READY
    assert healthy(group, ()) == [group[2]]
    assert healthy(group, (group[2],)) == []


def test_a_full_only_instance_makes_its_requests_wait() -> None:
    only = instance("a", 1)
    only.active_requests = 1
    assert chosen(selector(), Submitted(request(1)), [only]) is None


@pytest.mark.parametrize(
    ("pending", "tokens", "waits"), [(0, 9000, False), (900, 100, False), (900, 101, True)]
)
@pytest.mark.parametrize("others", [0, 2])
def test_a_prompt_waits_where_it_would_pass_every_window(
    pending: int, tokens: int, waits: bool, others: int
) -> None:
    group = [Engine(0, 1, pending, READY).made(number) for number in range(1 + others)]
    assert (chosen(selector(), Submitted(request(1, tokens)), group) is None) is waits


def test_a_model_may_have_a_policy_of_its_own() -> None:
    by = selector("round_robin")
    by.by_model["m"] = policy_named("least_loaded", Clock())
    assert by.policy_for(request(1)).name == "least_loaded"
    assert by.policy_for(request(1, model="other")).name == "round_robin"
    busy, idle = instance("busy"), instance("idle")
    busy.active_requests = 3
    assert {chosen(by, Submitted(request(n)), [busy, idle]) for n in range(4)} == {idle}


@pytest.mark.parametrize(("prefers", "expected"), [(True, "special"), (False, "mixed")])
def test_specialised_instances_go_before_mixed_ones_where_that_is_wanted(
    prefers: bool, expected: str
) -> None:
    mixed, special = instance("mixed"), instance("special")
    mixed.instance_type = ExecutionInstanceType.LLM_EMBEDDING
    special.instance_type = ExecutionInstanceType.GENERAL
    special.active_requests = 1
    by = selector("least_loaded")
    by.mixed, by.prefers_special = True, prefers
    found = chosen(by, Submitted(request(1, 10)), [mixed, special])
    assert found is not None
    assert found.instance_id == expected


@pytest.mark.parametrize(
    ("tokens", "output", "expected"),
    [(100, 0, "small"), (100, 2000, "large"), (3000, 0, "large"), (99_000, 0, "small")],
)
def test_a_request_goes_where_its_context_fits(tokens: int, output: int, expected: str) -> None:
    small, large = instance("small"), instance("large")
    small.context_tokens, large.context_tokens = {"m": 1024}, {"m": 8192}
    large.active_requests = 1
    by = selector("least_loaded")
    by.uneven = uneven_models([small, large])
    asked = request(1, tokens)
    asked.output_tokens = output
    found = chosen(by, Submitted(asked), [small, large])
    assert found is not None
    assert found.instance_id == expected


def test_contexts_are_uneven_only_within_a_model() -> None:
    one, two, silent = instance("one"), instance("two"), instance("silent")
    one.context_tokens, two.context_tokens = {"m": 1024, "n": 5}, {"m": 2048, "n": 5}
    assert uneven_models([one, two, silent]) == {"m"}
    assert uneven_models([one, silent]) == set()


@pytest.mark.parametrize("policy", ["hybrid", "prefix_aware"])
def test_a_patient_request_is_held_for_the_closed_instance_that_has_most_of_its_prompt(policy: str) -> None:
    warm, cold = Engine(0, 1, 950, READY).made(0), Engine(0, 1, 500, READY).made(1)
    by, blocks = selector(policy), list(range(1, 6))
    by.prefixes.add(warm, request(1, 320, blocks=blocks))
    submission = Submitted(request(2, 400, blocks=blocks))
    assert by.choose(submission, [warm, cold], NOW, patient=True) == (None, warm, 80)
    assert chosen(by, submission, [warm, cold]) in (warm, cold)  # it waits no longer
