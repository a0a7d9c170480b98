"""The modelled LLM engine: exact times, nothing lost, and queueing as the theory has it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.replay.events import Events
from sage_inference.replay.llm_engine import EngineLimits, LLMEngine, ModelledSequence
from sage_inference.simulator.timing import USUAL, StepTimes, llm_step_ms


@dataclass
class Stream:
    """What a caller sees of its request, in milliseconds."""

    events: Events
    first: float | None = None
    end: float | None = None
    cached: int = 0
    ends: int = 0
    gaps: list[float] = field(default_factory=list)

    def first_token(self, cached: int) -> None:
        assert self.first is None
        self.first, self.cached = self.events.now, cached

    def streamed(self, gap_ms: float) -> None:
        self.gaps.append(gap_ms)

    def finished(self) -> None:
        self.end = self.events.now
        self.ends += 1


def finish(events: Events) -> None:
    while events.step():
        pass


Arrival = tuple[float, int, int, list[int]]


def serve(
    arrivals: list[Arrival], limits: EngineLimits, times: StepTimes = USUAL
) -> tuple[LLMEngine, list[Stream]]:
    events = Events()
    engine = LLMEngine(events, limits, times)
    streams = [Stream(events) for _ in arrivals]
    for (at, prompt, output, blocks), stream in zip(arrivals, streams, strict=True):
        one = ModelledSequence(prompt, output, blocks, stream)
        events.at(at, lambda one=one: engine.submit(one))  # type: ignore[misc]
    finish(events)
    return engine, streams


def test_a_single_request_takes_its_chunks_and_its_decode_steps() -> None:
    _, [stream] = serve([(5.0, 10_000, 4, [])], EngineLimits())
    prompt = llm_step_ms(1, 0, [(8192, 0)]) + llm_step_ms(1, 8192, [(1808, 8192)])
    decode = sum(llm_step_ms(1, 10_001 + n) for n in range(3))
    assert stream.first == pytest.approx(5.0 + prompt)
    assert stream.end == pytest.approx(5.0 + prompt + decode)


def test_a_shared_prefix_is_computed_once() -> None:
    blocks = list(range(8))
    engine, streams = serve([(0, 4096, 2, blocks), (5000, 4200, 2, blocks)], EngineLimits())
    assert [s.cached for s in streams] == [0, 4096]
    assert engine.computed_tokens == 4096 + 104
    assert streams[1].first == pytest.approx(5000 + llm_step_ms(1, 4096, [(104, 4096)]))


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    blocks = list(range(8))
    _, streams = serve([(0, 4096, 1, blocks), (5000, 4096, 1, blocks)], EngineLimits())
    assert streams[1].cached == 7 * 512


def test_a_prefix_not_used_for_longest_is_forgotten_first() -> None:
    limits = EngineLimits(kv_tokens=2 * 512 + 200)
    once = [(n * 1000.0, 600, 2, [block]) for n, block in enumerate([1, 2, 1, 3, 1, 2])]
    _, streams = serve(once, limits)
    assert [s.cached for s in streams] == [0, 0, 512, 0, 512, 0]


def test_whoever_comes_joins_at_the_end_of_the_step_under_way() -> None:
    _, [first, second] = serve([(0.0, 100, 500, []), (1000.0, 100, 1, [])], EngineLimits())
    now = llm_step_ms(1, 0, [(100, 0)])
    context = 101
    while now < 1000.0:
        now += llm_step_ms(1, context)
        context += 1
    assert second.first == pytest.approx(now + llm_step_ms(2, context, [(100, 0)]))
    assert first.end is not None


def test_an_engine_that_plans_ahead_takes_in_a_sequence_a_step_later() -> None:
    arrivals: list[Arrival] = [(0.0, 100, 500, []), (1000.0, 100, 9, []), (1001.0, 100, 1, [])]
    _, [_, second, third] = serve(arrivals, EngineLimits(), replace(USUAL, ahead=True))
    now = llm_step_ms(1, 0, [(100, 0)])
    context = 101
    while now < 1000.0:
        now += llm_step_ms(1, context)
        context += 1
    now += llm_step_ms(1, context)  # planned before it came
    assert second.first == pytest.approx(now + llm_step_ms(3, context + 1, [(100, 0)] * 2))
    assert third.first == second.first


def test_an_engine_with_nothing_else_to_do_begins_at_once() -> None:
    ahead = replace(USUAL, ahead=True)
    for at in (50.0, 700.0):
        _, streams = serve([(0.0, 100, 1, []), (at, 200, 3, [])], EngineLimits(), ahead)
        assert streams[1].first == pytest.approx(at + llm_step_ms(1, 0, [(200, 0)]))


def test_an_engine_that_tells_its_steps_tells_the_gap_before_each_token() -> None:
    events = Events()
    engine = LLMEngine(events)
    engine.reports_steps = True
    stream = Stream(events)
    engine.submit(ModelledSequence(100, 4, [], stream))
    finish(events)
    assert stream.gaps == pytest.approx([llm_step_ms(1, 101 + n) for n in range(3)])


def test_half_the_speed_takes_twice_the_time_from_then_on() -> None:
    events = Events()
    engine = LLMEngine(events)
    stream = Stream(events)
    engine.submit(ModelledSequence(100, 200, [], stream))
    events.at(1000.0, lambda: engine.set_speed(0.5))
    finish(events)
    _, [alone] = serve([(0.0, 100, 200, [])], EngineLimits())
    assert alone.end is not None
    assert stream.end == pytest.approx(1000.0 + 2 * (alone.end - 1000.0))


def test_the_newest_is_preempted_when_memory_is_full_and_loses_no_token() -> None:
    limits = EngineLimits(kv_tokens=1200)
    engine, [old, new] = serve([(0.0, 500, 300, []), (0.0, 500, 300, [])], limits)
    assert engine.preemptions == 1
    assert old.end is not None
    assert new.end is not None
    assert old.end < new.end
    assert engine.generated_tokens == 600


def test_what_can_never_fit_is_refused() -> None:
    for limits in (EngineLimits(kv_tokens=1000), EngineLimits(max_model_len=1000)):
        engine = LLMEngine(Events(), limits)
        engine.submit(ModelledSequence(900, 100, [], Stream(Events())))
        with pytest.raises(ValueError, match="exceed the context of 1000"):
            engine.submit(ModelledSequence(900, 101, [], Stream(Events())))


def one_step_at_a_time(
    arrivals: list[Arrival], limits: EngineLimits, ahead: bool
) -> list[tuple[float, float]]:
    """The same engine without sharing, memory limit or shortcuts: a loop over steps."""
    waiting = sorted(range(len(arrivals)), key=lambda n: arrivals[n][0])
    running: list[list[int]] = []  # number, computed, produced
    times = [[0.0, 0.0] for _ in arrivals]
    now = planned = 0.0
    while waiting or running:
        if not running:
            now = planned = max(now, arrivals[waiting[0]][0])
        budget = limits.max_num_batched_tokens
        budget -= sum(1 for n, computed, _ in running if computed == arrivals[n][1])
        chunks = []
        for one in running:
            new = min(arrivals[one[0]][1] - one[1], budget)
            if new > 0:
                chunks.append((one, new))
                budget -= new
        if not ahead:
            planned = now
        while (
            waiting and arrivals[waiting[0]][0] <= planned and budget and len(running) < limits.max_num_seqs
        ):
            one = [waiting.pop(0), 0, 0]
            running.append(one)
            new = min(arrivals[one[0]][1], budget)
            chunks.append((one, new))
            budget -= new
        context = sum(computed + produced for _, computed, produced in running)
        planned = now
        now += llm_step_ms(len(running), context, [(new, one[1]) for one, new in chunks])
        for one in running:
            if one[2]:
                one[2] += 1
        for one, new in chunks:
            one[1] += new
            if one[1] == arrivals[one[0]][1]:
                one[2] = 1
                times[one[0]][0] = now
        for n, _, produced in running:
            if produced == arrivals[n][2]:
                times[n][1] = now
        running = [one for one in running if one[2] < arrivals[one[0]][2]]
    return [(first, end) for first, end in times]


loads: st.SearchStrategy[list[Arrival]] = st.lists(
    st.tuples(st.floats(0, 3000), st.integers(1, 9000), st.integers(1, 300), st.just([])),
    min_size=1,
    max_size=12,
    unique_by=lambda arrival: arrival[0],  # of those that come at once, the first begins its step alone
)


@settings(deadline=None)
@given(loads, st.sampled_from([3, 256]), st.sampled_from([300, 8192]), st.booleans())
def test_many_steps_in_one_go_end_when_they_would_one_by_one(
    arrivals: list[Arrival], sequences: int, batched: int, ahead: bool
) -> None:
    limits = EngineLimits(max_num_seqs=sequences, max_num_batched_tokens=batched)
    _, streams = serve(arrivals, limits, replace(USUAL, ahead=ahead))
    expected = one_step_at_a_time(arrivals, limits, ahead)
    found = [(s.first or 0.0, s.end or 0.0) for s in streams]
    assert list(chain(*found)) == pytest.approx(list(chain(*expected)), abs=1e-6)


shared_loads: st.SearchStrategy[list[Arrival]] = st.lists(
    st.builds(
        lambda at, prefix, more, output: (
            at,
            512 * len(prefix) + more,
            output,
            [hash(tuple(prefix[: n + 1])) for n in range(len(prefix))],
        ),
        st.floats(0, 20_000),
        st.lists(st.integers(0, 2), max_size=6),
        st.integers(1, 511),
        st.integers(1, 200),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(shared_loads, st.integers(3800, 20_000))
def test_tokens_memory_and_places_are_conserved(arrivals: list[Arrival], kv_tokens: int) -> None:
    engine, streams = serve(arrivals, EngineLimits(kv_tokens=kv_tokens, max_num_seqs=8))
    assert [s.ends for s in streams] == [1] * len(streams)
    assert engine.generated_tokens == sum(output for _, _, output, _ in arrivals)
    assert engine.prompt_tokens == sum(prompt for _, prompt, _, _ in arrivals)
    computed = engine.prompt_tokens - sum(s.cached for s in streams)
    assert (
        engine.computed_tokens == computed if not engine.preemptions else engine.computed_tokens >= computed
    )
    assert engine.cache.used == engine.cache.private == 0
    assert engine.cache.kept <= kv_tokens
    assert not engine.running
    assert not engine.waiting
    assert not engine.busy


def test_waiting_times_are_those_of_an_m_d_1_queue() -> None:
    """One request a step, Poisson arrivals at 70 %: the mean wait is rho D / 2 (1 - rho)."""
    limits = EngineLimits(max_num_batched_tokens=1000)
    service = llm_step_ms(1, 0, [(1000, 0)])
    rng = random.Random(4)
    arrivals: list[Arrival] = []
    at = 0.0
    for _ in range(40_000):
        at += rng.expovariate(0.7 / service)
        arrivals.append((at, 1000, 1, []))
    _, streams = serve(arrivals, limits)
    waits = [(s.end or 0) - a[0] - service for s, a in zip(streams, arrivals, strict=True)]
    assert sum(waits) / len(waits) == pytest.approx(0.7 * service / (2 * (1 - 0.7)), rel=0.05)


@given(
    arrivals=st.lists(
        st.tuples(st.floats(0, 2000), st.integers(1, 6000), st.integers(1, 60), st.floats(0, 4000)),
        min_size=1,
        max_size=20,
    ),
    ahead=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_sequences_whose_sender_left_give_back_their_memory_and_report_nothing(
    arrivals: list[tuple[float, int, int, float]], ahead: bool
) -> None:
    events = Events()
    engine = LLMEngine(events, EngineLimits(4, 1024, 8192), replace(USUAL, ahead=ahead))
    reports: list[tuple[Stream, bool]] = []
    for at, prompt, output, after in arrivals:
        stream = Stream(events)
        one = ModelledSequence(prompt, output, list(range(prompt // 512)), stream)
        events.at(at, lambda one=one: engine.submit(one))  # type: ignore[misc]

        def leave(one: ModelledSequence = one, stream: Stream = stream) -> None:
            reports.append((stream, stream.ends == 1))
            if not stream.ends:
                engine.abort(one)

        events.at(at + after, leave)
    finish(events)
    assert [stream.ends == 1 for stream, _ in reports] == [had_ended for _, had_ended in reports]
    assert not engine.waiting
    assert not engine.running
    assert engine.cache.private == 0
    assert engine.cache.used == 0
    assert not engine.busy


def test_a_prompt_goes_after_the_step_in_which_the_sender_of_another_left() -> None:
    events = Events()
    engine = LLMEngine(events, EngineLimits(max_num_seqs=1))
    gone, kept = Stream(events), Stream(events)
    long = ModelledSequence(100, 10_000, [], gone)
    engine.submit(long)
    engine.submit(ModelledSequence(100, 1, [], kept))
    events.at(1000.0, lambda: engine.abort(long))
    finish(events)
    assert gone.end is None
    assert kept.first is not None
    assert 1000.0 < kept.first < 1000.0 + 2 * llm_step_ms(2, 400, [(100, 0)])
