"""Paces of instances beside each other: what answers in one piece teach, and how it is forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.control_plane.accounting.ledger import Ledger
from sage_inference.control_plane.accounting.relative_pace import (
    FARTHEST,
    HALF_LIFE_S,
    MOST_TRIALS,
    PRIOR_STEPS,
    RelativePaces,
    Shown,
    steps_of,
)
from sage_inference.control_plane.cost import ALIKE, LEAST_PACE, MOST_PACE, even_paces
from sage_inference.control_plane.instances.gpu_sharing import SharedGPU
from sage_inference.control_plane.instances.load import Placement, learn
from sage_inference.control_plane.instances.prefill_decode import decode_leg
from sage_inference.types import (
    ExecutionInstance,
    ExecutionInstanceType,
    InstanceLoad,
    RequestType,
    SchedulingRequest,
    Usage,
)
from tests.control_plane.parts import EMBED, Clock, instance, manager, request, submit
from tests.support.cpu import cpu_time

K = InstanceLoad().ms_per_token


class Bench:
    """Books of some instances, and a clock. An answer takes ``pace`` milliseconds for each of its tokens."""

    def __init__(self, count: int = 3) -> None:
        self.now = 1000.0
        self.instances = [instance(f"i{n}") for n in range(count)]
        self.ledger = Ledger()
        self.ledger.relative.regroup(self.instances)

    def answer(
        self,
        at: ExecutionInstance,
        pace: float,
        tokens: int = 200,
        *,
        streams: bool = False,
        outcome: str = "done",
        choices: int = 1,
        change: Callable[[SchedulingRequest], SchedulingRequest] = lambda request: request,
    ) -> None:
        asked = change(request(0, 100, streams=streams))
        placement = Placement(at, 1, self.now, asked)
        self.ledger.placed(placement, 1, self.now)
        if streams:
            placement.begun(self.now + pace / 1000)
        placement.ended(self.now + pace * tokens / 1000)
        placement.outcome, placement.answers = outcome, choices
        self.ledger.used(placement, Usage(100, tokens))

    def second(self, *paces: float, streams: bool = False) -> None:
        """Each instance answers at its pace; with 0 it has no work."""
        self.now += 1.0
        self.ledger.relative.renew(self.now)
        for each, pace in zip(self.instances, paces, strict=True):
            if pace:
                self.answer(each, pace, streams=streams)

    @property
    def paces(self) -> list[float]:
        return [each.load.ms_per_token for each in self.instances]

    @property
    def ratios(self) -> list[float]:
        return [pace / min(self.paces) for pace in self.paces]


def test_the_pace_of_answers_in_one_piece_follows_the_formula() -> None:
    bench = Bench(2)
    bench.now += 1.0
    bench.answer(bench.instances[0], 10.0)
    bench.answer(bench.instances[1], 30.0)
    bench.ledger.relative.renew(bench.now)
    r = (200 * 3 + PRIOR_STEPS) / (200 + PRIOR_STEPS)
    first, second = (each.load for each in bench.instances)
    assert (first.own_share, second.own_share) == (0.5, 0.5)
    assert second.ms_per_token == pytest.approx(0.5 * K + 0.5 * K * r)
    assert first.ms_per_token == pytest.approx(K)


def test_a_slow_instance_is_known_after_some_answers_in_one_piece() -> None:
    bench = Bench(4)
    for _ in range(30):
        bench.second(10.0, 10.5, 30.0, 31.0)
    assert bench.ratios == pytest.approx([1, 1, 3, 3], rel=0.25)
    assert min(bench.paces) == pytest.approx(K, rel=0.1)  # of the group itself they teach nothing


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_one_slow_instance_does_not_make_the_others_look_slow(count: int) -> None:
    bench = Bench(count)
    for _ in range(30):
        bench.second(*[10.0] * (count - 1), 40.0)
    assert bench.ratios == pytest.approx([1] * (count - 1) + [4], rel=0.3)


def test_the_work_beside_an_answer_counts() -> None:
    assert steps_of(200, 0, 0) == 200
    assert steps_of(200, 0, 200) == 400
    assert steps_of(200, 267 * 200, 0) == 400


def test_choices_of_one_request_take_no_longer_than_one() -> None:
    bench = Bench(2)
    for _ in range(30):
        bench.now += 1.0
        bench.answer(bench.instances[0], 10.0)
        bench.answer(bench.instances[1], 10.0 / 8, 200 * 8, choices=8)
        bench.ledger.relative.renew(bench.now)
    assert bench.ratios == pytest.approx([1, 1], rel=0.01)


def kind(word: RequestType) -> Callable[[SchedulingRequest], SchedulingRequest]:
    def change(of: SchedulingRequest) -> SchedulingRequest:
        of.request_type = word
        return of

    return change


NO_TEXT = [each for each in RequestType if not each.is_llm]


@pytest.mark.parametrize(
    "how",
    [
        *({"change": kind(each)} for each in NO_TEXT),
        {"change": decode_leg},
        {"outcome": "cut"},
        {"outcome": "aborted"},
        {"outcome": "cancelled"},
        {"outcome": "retried"},
        {"tokens": 0},
        {"choices": 0},
    ],
    ids=lambda how: "-".join(f"{name}" for name in how),
)
def test_other_work_teaches_no_pace_of_answers(how: dict[str, object]) -> None:
    bench = Bench(2)
    for _ in range(30):
        bench.now += 1.0
        bench.answer(bench.instances[0], 10.0, **how)  # type: ignore[arg-type]
        bench.answer(bench.instances[1], 90.0, **how)  # type: ignore[arg-type]
        bench.ledger.relative.renew(bench.now)
    assert bench.paces == pytest.approx([K, K])


@pytest.mark.parametrize("which", ["lost_at", "stalled_at"])
def test_an_answer_to_what_was_sent_before_a_loss_or_a_stall_teaches_nothing(which: str) -> None:
    bench = Bench(2)
    for _ in range(30):
        bench.now += 1.0
        setattr(bench.instances[1].load, which, bench.now)
        bench.answer(bench.instances[0], 10.0)
        bench.answer(bench.instances[1], 90.0)
        bench.ledger.relative.renew(bench.now)
    assert bench.paces == pytest.approx([K, K])


def test_models_of_different_sizes_are_not_compared() -> None:
    """An instance that has a large model beside a small one is no slower than one that has only the small one."""
    bench = Bench(2)
    both, small = bench.instances
    both.models, small.models = ("m", "large"), ("m",)
    bench.ledger.relative.regroup(bench.instances)

    def large(of: SchedulingRequest) -> SchedulingRequest:
        of.model = "large"
        return of

    for _ in range(30):
        bench.now += 1.0
        bench.answer(both, 10.0)
        bench.answer(both, 80.0, change=large)
        bench.answer(small, 10.0)
        bench.ledger.relative.renew(bench.now)
    assert bench.ratios == pytest.approx([1, 1], rel=0.01)


def test_streams_and_answers_in_one_piece_agree_on_a_slow_instance() -> None:
    bench = Bench(2)
    for _ in range(80):
        bench.second(10.0, 30.0)
        for each, pace in zip(bench.instances, (K, 3 * K), strict=True):
            learn(each.load, 1000, 1000 * pace)
    assert bench.ratios[1] == pytest.approx(3, rel=0.25)  # and not nine times as slow


def test_what_streams_taught_gives_way_when_all_answers_come_in_one_piece() -> None:
    bench = Bench(2)
    for _ in range(200):
        learn(bench.instances[1].load, 1000, 1000 * 4 * K)
    for _ in range(40):
        bench.second(10.0, 10.0)
    assert bench.ratios[1] < 1.1


# Forgetting


def slow_one(factor: float = 3.0, *, streams: bool = False) -> Bench:
    bench = Bench(3)
    for _ in range(40):
        bench.second(10.0, 10.0, 10.0 * factor)
        if streams:
            for each, pace in zip(bench.instances, (K, K, factor * K), strict=True):
                learn(each.load, 1000, 1000 * pace)
    return bench


def seconds_until_alike(bench: Bench, most: int = 2000) -> int:
    for second in range(most):
        if bench.ratios[2] <= ALIKE:
            return second
        bench.second(10.0, 10.0, 0.0)
    return most


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("factor", [3.0, 6.0])
def test_an_instance_once_slow_is_tried_again(factor: float, streams: bool) -> None:
    bench = slow_one(factor, streams=streams)
    assert bench.ratios[2] > 2
    assert 5 < seconds_until_alike(bench) < 4 * HALF_LIFE_S
    for _ in range(10):
        bench.second(10.0, 10.0, 10.0)
    assert bench.ratios == pytest.approx([1, 1, 1], rel=0.5)


def test_an_instance_that_is_still_slow_is_tried_again_later() -> None:
    bench = slow_one(4.0)
    waits = []
    for _ in range(MOST_TRIALS + 2):
        waits.append(seconds_until_alike(bench))
        for _ in range(40):
            bench.second(10.0, 10.0, 40.0)
        assert bench.ratios[2] > 2 * ALIKE
    assert waits[0] < waits[1] < waits[2]
    assert waits[-1] <= 4 * waits[0] + 10
    for _ in range(60):
        bench.second(10.0, 10.0, 10.0)
    for _ in range(40):
        bench.second(10.0, 10.0, 40.0)
    assert seconds_until_alike(bench) == pytest.approx(waits[0], abs=10)  # it was well meanwhile


def test_nothing_is_forgotten_while_nobody_has_work() -> None:
    bench = slow_one()
    before = bench.paces
    for _ in range(2000):
        bench.second(0.0, 0.0, 0.0)
    assert bench.paces == pytest.approx(before, rel=0.01)


@pytest.mark.parametrize(("token_ms", "seconds"), [(90.0, 40), (1000.0, 390)])
def test_nothing_is_forgotten_of_an_instance_whose_next_answer_may_still_come(
    token_ms: float, seconds: int
) -> None:
    """An answer of 200 tokens took 18 s, or 200 s."""
    bench = slow_one()
    bench.second(10.0, 10.0, token_ms)
    bench.second(10.0, 10.0, 0.0)
    before = bench.paces[2]
    Placement(bench.instances[2], 100, bench.now)
    for _ in range(seconds):
        bench.second(10.0, 10.0, 0.0)
    assert bench.paces[2] == pytest.approx(before, rel=0.01)


def test_an_instance_without_peers_forgets_nothing() -> None:
    bench = Bench(1)
    learn(bench.instances[0].load, 1000, 90_000)
    before = bench.paces
    for _ in range(100):
        bench.second(0.0)
    assert bench.paces == pytest.approx(before)


def test_instances_that_left_are_forgotten() -> None:
    bench = slow_one()
    bench.ledger.relative.regroup(bench.instances[:2])
    bench.second(10.0, 10.0, 90.0)
    assert set(bench.ledger.relative._of) == set(bench.instances[:2])


def test_an_instance_that_is_left_alone_goes_by_first_bytes_again() -> None:
    bench = slow_one()
    slow = bench.instances[2]
    bench.ledger.relative.regroup([slow])
    bench.answer(slow, 30.0)
    bench.ledger.relative.renew(bench.now + 1)
    assert slow.load.ms_per_token == pytest.approx(K)


# Laws

TIMES = st.one_of(
    st.floats(0.001, 1e5),
    st.sampled_from([0.0, -1.0, -1e9, 1e-300, 1e300, math.inf, -math.inf, math.nan]),
)
EVENTS = st.lists(st.tuples(st.integers(0, 2), TIMES, st.booleans(), st.integers(1, 5000)), max_size=60)


@given(EVENTS)
def test_whatever_was_measured_paces_are_usable_numbers(
    events: Sequence[tuple[int, float, bool, int]],
) -> None:
    bench = Bench(3)
    for which, took_ms, streams, tokens in events:
        bench.now += 0.5
        one = bench.instances[which]
        if streams:
            learn(one.load, tokens, took_ms)
        else:
            bench.answer(one, took_ms / tokens, tokens)
        bench.ledger.relative.renew(bench.now)
        assert all(LEAST_PACE <= pace <= MOST_PACE for pace in bench.paces)
        assert all(math.isfinite(pace) for pace in even_paces(bench.paces))


@given(st.lists(TIMES, max_size=400))
def test_a_pace_from_first_bytes_comes_back_after_any_nonsense(nonsense: Sequence[float]) -> None:
    load = InstanceLoad()
    for took_ms in nonsense:
        learn(load, 1, took_ms)
    for _ in range(600):
        learn(load, 1000, 20.0)
    assert load.ms_per_token == pytest.approx(0.02, rel=0.5)


@given(st.lists(TIMES, max_size=30))
def test_a_shared_gpu_learns_only_times_that_can_be(nonsense: Sequence[float]) -> None:
    shared, one = SharedGPU(0.7), instance("a")
    shared.llm = 1
    for seconds in [*nonsense, 1.0]:
        placement = Placement(one, 1, 10.0)
        shared.began(placement, llm=False)
        shared.ended(placement, llm=False, now=10.0 + seconds)
    assert 11.0 <= shared.resumes_at < 11.0 + 1e6


PACES = st.lists(st.floats(2.0, 200.0), min_size=2, max_size=5)


@given(PACES, st.data())
def test_slower_answers_never_make_an_instance_look_faster(paces: list[float], data: st.DataObject) -> None:
    which = data.draw(st.integers(0, len(paces) - 1))
    factor = data.draw(st.floats(1.0, 20.0))
    from_turn = data.draw(st.integers(0, 9))
    told, slower = Bench(len(paces)), Bench(len(paces))
    for turn in range(10):
        told.second(*paces)
        changed = list(paces)
        if turn >= from_turn:
            changed[which] *= factor
        slower.second(*changed)
    for other in range(len(paces)):
        before = told.paces[which] / told.paces[other]
        assert slower.paces[which] / slower.paces[other] >= before * (1 - 1e-9)


@given(st.integers(2, 8), st.floats(2.0, 200.0), st.integers(1, 60))
def test_equal_instances_stay_equal(count: int, pace: float, turns: int) -> None:
    bench = Bench(count)
    for _ in range(turns):
        bench.second(*[pace] * count)
    assert bench.paces == pytest.approx([K] * count)


@given(st.integers(2, 8), st.randoms(use_true_random=False), st.integers(1, 25))
def test_chance_does_not_steer_equal_instances(count: int, rng: object, turns: int) -> None:
    bench = Bench(count)
    for _ in range(turns):
        bench.second(*[10.0 * rng.uniform(0.75, 1.33) for _ in range(count)])  # type: ignore[attr-defined]
    assert len(set(even_paces(bench.paces))) == 1


@given(st.floats(1e-6, 1e6))
def test_one_answer_in_one_piece_moves_a_pace_only_a_little(odd: float) -> None:
    bench = Bench(3)
    for _ in range(20):
        bench.second(10.0, 10.0, 10.0)
    bench.second(10.0, 10.0, odd)
    assert 1 / ALIKE < bench.paces[2] / bench.paces[0] < ALIKE
    for _ in range(40):
        bench.second(10.0, 10.0, odd)
    assert bench.paces[2] / bench.paces[0] <= FARTHEST


# Where it is used


def test_answers_are_read_often_at_first_and_then_now_and_then() -> None:
    clock = Clock()
    one, two = instance("a"), instance("b")
    m = manager(one, two, clock=clock)
    read = 0
    for number in range(1000):
        asked = request(number, 100, streams=False)
        asked.prompt_bytes = 400
        submission = submit(m, asked)
        clock.now += 0.01
        wanted = m.ledger.wants_usage(submission.place)
        m.release(submission, Usage(100, 50) if wanted else None)
        read += wanted and number >= 400
    assert 60 <= read <= 160


def test_a_stream_is_not_read_for_its_pace() -> None:
    m = manager(instance("a"), instance("b"))
    m.ledger.estimates.pass_over = 1000
    submissions = [submit(m, request(number, 1, streams=number % 2 == 0)) for number in range(8)]
    assert [m.ledger.wants_usage(submission.place) for submission in submissions] == [False, True] * 4


def busy_and_avoided(work: str, seconds: int) -> tuple[list[float], list[float]]:
    """The ratios when an instance has shown that it is slow, and after so long in which only others get requests.

    All the time it has ``work`` that shows no pace.
    """
    bench = Bench(3)
    for _ in range(40):
        bench.second(10.0, 10.0, 40.0)
    before, slow = bench.ratios, bench.instances[2]
    if work == "embeddings":
        slow.instance_type = ExecutionInstanceType.LLM_EMBEDDING
    for _ in range(seconds):
        if work == "embeddings":  # one follows the other
            placement = Placement(slow, 100, bench.now, request("text", route=EMBED))
            bench.second(10.0, 10.0, 0.0)
            placement.begun(bench.now, teaches=False)
            placement.ended(bench.now)
        else:
            slow.active_requests = 1 if work == "one stream" else 12
            bench.second(10.0, 10.0, 0.0)
    return before, bench.ratios


@pytest.mark.parametrize("work", ["one stream", "many streams", "embeddings"])
def test_what_shows_no_pace_does_not_keep_an_instance_from_fading(work: str) -> None:
    before, after = busy_and_avoided(work, 400)
    assert before[2] > 2.5
    assert after[2] < 1.5


@pytest.mark.parametrize("work", ["one stream", "embeddings"])
def test_an_instance_with_work_does_not_fade_before_its_answers_can_come(work: str) -> None:
    before, after = busy_and_avoided(work, 40)
    assert after[2] == pytest.approx(before[2], rel=0.05)


def test_an_instance_whose_peers_are_silent_too_does_not_fade() -> None:
    bench = Bench(2)
    for _ in range(40):
        bench.second(10.0, 40.0)
    for each in bench.instances:
        each.active_requests = 1
    bench.second(0.0, 0.0)  # counts the last answers
    before = bench.ratios
    for _ in range(400):
        bench.second(0.0, 0.0)
    assert bench.ratios == before


@pytest.mark.parametrize("answered", ["all", "one"])
def test_a_renewal_of_many_instances_and_models_is_done_in_pieces(answered: str) -> None:
    instances = [instance(f"i{n}") for n in range(200)]
    for each in instances:
        each.models = tuple(f"m{n}" for n in range(64))
    paces = RelativePaces()
    paces.regroup(instances)
    for at, beside in enumerate(paces._of.values()):
        for model in instances[0].models:
            beside.shown[model] = Shown(10.0 * (100 + at), 100.0, 0.0, 1.0, fresh=True)
        beside.answers += answered == "all" or at == 0
    took: list[float] = []
    now = 1000.0
    while not took or paces.due_at <= now:
        with cpu_time() as spent:
            done = paces.renew(now)
        took.append(spent.seconds)
    assert done
    assert len(took) > 2
    assert max(took) < 0.03  # 3 ms; 30 and more in one piece
    assert {beside.seen for beside in paces._of.values()} == ({1} if answered == "all" else {0, 1})


def test_an_answer_and_a_new_instance_between_two_pieces_do_no_harm() -> None:
    instances = [instance(f"i{n}") for n in range(200)]
    for each in instances:
        each.models = tuple(f"m{n}" for n in range(64))
    paces = RelativePaces()
    paces.regroup(instances)
    for beside in paces._of.values():
        beside.shown = {f"m{n}": Shown(1000.0, 100.0, 0.0, 1.0) for n in range(63)}
        beside.answers = 1
    assert not paces.renew(1000.0)
    last = paces._of[instances[-1]]
    last.shown["m63"] = Shown(1000.0, 100.0, 0.0, 1.0, fresh=True)
    last.answers += 1
    while not paces.renew(1000.0):
        pass
    assert paces.due_at == 1001.0
    assert last.answers > last.seen  # the answer counts for the next renewal
    assert not paces.renew(1001.0)
    paces.regroup(instances[:100])
    while not paces.renew(1001.0):
        pass
    assert all(each.load.ms_per_token > 0 for each in instances)
