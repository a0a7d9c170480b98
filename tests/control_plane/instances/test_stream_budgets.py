"""Streams with a TPOT to keep decide how many embedding calls run beside them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.control_plane.instances.gpu_sharing import MOST_BESIDE
from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.instances.stream_budgets import PLANNED, StreamBudget, StreamBudgets
from sage_inference.types import EngineState
from tests.control_plane.parts import (
    EMBED,
    Clock,
    Submitted,
    alarms_of,
    configure,
    instance,
    manager,
    request,
    submit,
)

TPOT_S = 0.05
TICK_S = 0.005
LONGEST_PAUSE_S = 0.4


class OneGPU:
    """Streams that have a token every ``alone_s``, or ``beside_s`` while a call of ``call_s`` is in flight.

    Callers keep ``callers`` calls waiting or in flight.
    """

    def __init__(self, alone_s: float, beside_s: float, call_s: float, callers: int = 6) -> None:
        self.clock = Clock()
        llm = instance("llm", gpu="0")
        self.m = manager(llm, instance("e", model="e", route=EMBED, gpu="0"), clock=self.clock)
        alarms_of(self.m)
        configure(self.m, llm_share=None)
        self.alone_s, self.beside_s, self.call_s = alone_s, beside_s, call_s
        self.callers = callers
        self.waiting: list[Submitted] = []
        self.running: list[
            tuple[float, Submitted]
        ] = []  # by their ends; the engine computes one after the other
        self.begins: list[float] = []
        self.streams: dict[Submitted, tuple[StreamBudget, float]] = {}  # with the share of the next token
        self.means: list[float] = []  # of streams that ended
        self.idle_s = self.longest_idle_s = 0.0  # without a call in flight

    def stream(self) -> None:
        made = submit(self.m, request(f"s{len(self.means)}{len(self.streams)}", arrived=self.clock.now))
        self.m.first_byte(made)
        tell = self.m.gap_listener(made)
        assert tell is not None
        self.streams[made] = (tell.__self__, 0.0)  # type: ignore[attr-defined]

    def end_oldest(self) -> None:
        made = next(iter(self.streams))
        budget, _ = self.streams.pop(made)
        self.m.release(made)
        self.means.append(budget.spent_s / budget.tokens)

    def tick(self) -> None:
        """Let 5 ms pass."""
        self.clock.now += TICK_S
        now = self.clock.now
        gap = self.beside_s if self.running else self.alone_s
        for made, (budget, part) in self.streams.items():
            part += TICK_S / gap
            while part >= 1.0:
                part -= 1.0
                budget.streamed(gap, now)
            self.streams[made] = (budget, part)
        while self.running and self.running[0][0] <= now:
            _, call = self.running.pop(0)
            self.m.first_byte(call)
            self.m.release(call)
        self.m.dispatch()
        self.note()
        self.idle_s = 0.0 if self.running else self.idle_s + TICK_S
        self.longest_idle_s = max(self.longest_idle_s, self.idle_s)

    def note(self) -> None:
        while len(self.waiting) + len(self.running) < self.callers:
            self.waiting.append(submit(self.m, request("call", 1000, model="e", route=EMBED)))
        now = self.clock.now
        for call in [call for call in self.waiting if call.where is not None]:
            self.waiting.remove(call)
            free_at = self.running[-1][0] if self.running else now
            self.running.append((free_at + self.call_s, call))
            self.begins.append(now)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.tick()


def test_embeddings_run_freely_while_every_stream_has_time_to_spare() -> None:
    """A single long gap, of a prompt beside it, holds nobody back: the mean of the stream is what counts."""
    gpu = OneGPU(0.010, 0.020, 0.060)
    for _ in range(5):
        gpu.stream()
    gpu.run(1.0)
    for budget, _ in gpu.streams.values():
        budget.streamed(0.150, gpu.clock.now)
    gpu.run(0.2)
    assert len(gpu.running) == MOST_BESIDE


def test_embeddings_stand_back_within_a_few_tokens_of_a_stream_that_falls_behind() -> None:
    gpu = OneGPU(0.010, 0.150, 0.060, callers=0)
    for _ in range(5):
        gpu.stream()
    gpu.run(0.1)
    gpu.callers = 6
    in_flight = []
    for _ in range(400):
        gpu.tick()
        # The calls that were in flight when the first stream fell behind run to their end.
        assert gpu.m.gpus["0"].streams.urgency(TPOT_S, gpu.clock.now) < 2.5
        in_flight.append(len(gpu.running))
    assert max(in_flight[:20]) == MOST_BESIDE
    assert max(in_flight[100:]) < MOST_BESIDE
    assert sum(in_flight[100:]) < 2 * len(in_flight[100:])


@settings(max_examples=12, deadline=None)
@given(
    alone_s=st.floats(0.004, 0.020),
    beside_s=st.floats(0.020, 0.180),
    call_s=st.floats(0.020, 0.150),
)
def test_streams_keep_their_tpot_and_embeddings_get_the_rest(
    alone_s: float, beside_s: float, call_s: float
) -> None:
    gpu = OneGPU(alone_s, beside_s, call_s)
    for _ in range(10):
        gpu.stream()
        gpu.run(0.15)
    for _ in range(15):
        gpu.end_oldest()
        gpu.stream()
        gpu.run(0.15)
    assert max(gpu.means) <= TPOT_S
    # No swing: after the start there is no second in which the calls differ much from those of the next.
    seconds = [sum(1 <= at - 1000 - n < 2 for at in gpu.begins) for n in range(2)]
    assert min(seconds) >= 0.5 * max(seconds) - 2
    if beside_s <= 0.8 * PLANNED * TPOT_S:
        assert gpu.waiting == [] or len(gpu.running) == MOST_BESIDE


@settings(max_examples=12, deadline=None)
@given(gaps=st.lists(st.floats(0.001, 3.0), min_size=1, max_size=20), ttft=st.booleans())
def test_no_stream_holds_embeddings_back_for_ever(gaps: list[float], ttft: bool) -> None:
    gpu = OneGPU(1e9, 1e9, 0.050)
    for _ in range(3):
        gpu.stream()
    if ttft:
        submit(gpu.m, request("prompt", arrived=gpu.clock.now))
    for gap_s in gaps:
        for budget, _ in gpu.streams.values():
            budget.streamed(gap_s, gpu.clock.now)
        gpu.run(0.04)
    gpu.run(0.6)
    assert gpu.longest_idle_s <= LONGEST_PAUSE_S + 2 * TICK_S


def test_without_streams_nothing_pauses() -> None:
    gpu = OneGPU(0.010, 0.150, 0.050, callers=8)
    gpu.note()
    assert len(gpu.running) == 8
    gpu.stream()
    gpu.run(2.0)
    assert len(gpu.running) < 8
    gpu.end_oldest()
    gpu.tick()
    assert len(gpu.running) == 8


def test_a_prompt_that_waits_holds_embeddings_back_before_its_ttft_is_over() -> None:
    gpu = OneGPU(0.010, 0.020, 0.060)
    prompt = submit(gpu.m, request("prompt", arrived=gpu.clock.now))
    gpu.run(0.2)
    assert len(gpu.running) == MOST_BESIDE
    gpu.run(0.4)
    assert len(gpu.running) == 0
    gpu.m.first_byte(prompt)
    gpu.run(0.05)
    assert len(gpu.running) == MOST_BESIDE


@pytest.mark.parametrize("streams", [True, False], ids=["a stream", "an answer in one piece"])
def test_a_first_byte_that_cannot_be_in_time_any_more_holds_nobody_back(streams: bool) -> None:
    gpu = OneGPU(0.010, 0.020, 0.060)
    submit(gpu.m, request("prompt", arrived=gpu.clock.now, streams=streams))
    gpu.run(0.6)
    assert len(gpu.running) == (0 if streams else MOST_BESIDE)
    gpu.run(1.6)
    assert len(gpu.running) == MOST_BESIDE


def test_a_stream_that_is_lost_and_one_whose_caller_does_not_read_hold_nobody_back() -> None:
    lost, unread = StreamBudget(), StreamBudget()
    for _ in range(50):
        lost.streamed(0.2, 1.0)
        unread.streamed(0.010, 1.0)
    assert lost.urgency(TPOT_S, 1.0) == 0.0
    assert unread.urgency(TPOT_S, 1.1) < 0.0
    assert unread.urgency(TPOT_S, 60.0) < 1.0
    unread.streamed(60.0, 61.0)
    assert unread.urgency(TPOT_S, 61.0) == 0.0


def test_a_stream_that_ended_counts_no_more() -> None:
    budgets = StreamBudgets()
    llm = instance("llm")
    llm.state = EngineState.READY
    placement = Placement(llm, 1, 0.0, request("s", arrived=0.0))
    budgets.began(placement)
    tell = budgets.listener(placement)
    for _ in range(20):
        tell(0.060, 1.2)
    assert budgets.urgency(TPOT_S, 1.2) > 1.0
    budgets.ended(placement)
    assert budgets.urgency(TPOT_S, 1.2) == 0.0
    tell(0.060, 1.3)  # a last chunk, after its end was noted
    budgets.listener(placement)
    assert budgets.urgency(TPOT_S, 1.3) == 0.0


class Chunks:
    chunks = 0


@pytest.mark.parametrize("gap_s", [0.01, 0.03, 0.04, 0.06, 0.1, 0.3])
@pytest.mark.parametrize("tokens", [0, 1, 10, 200])
def test_a_stream_that_nobody_watched_is_as_urgent_as_one_whose_gaps_were_noted(
    gap_s: float, tokens: int
) -> None:
    where = instance("llm", gpu="0")
    stream = Chunks()
    noted, unwatched = StreamBudgets(), StreamBudgets()
    now = 100.0
    place = Placement(where, 10, now, request("s"))
    place.request.streams = True
    for budgets in (noted, unwatched):
        budgets.began(place)
    tell = noted.listener(place)
    unwatched.follow(place, stream, now)
    stream.chunks = 1
    for _ in range(tokens):
        now += gap_s
        stream.chunks += 1
        tell(gap_s, now)
    if not tokens:
        assert unwatched.urgency(TPOT_S, now) == 0.0
        return
    assert unwatched.urgency(TPOT_S, now + 0.02) == pytest.approx(noted.urgency(TPOT_S, now + 0.02))
    late = unwatched.listener(place, None, now)  # from here on its gaps are noted
    for listener in (tell, late):
        listener(gap_s, now + gap_s)
    assert unwatched.urgency(TPOT_S, now + gap_s) == pytest.approx(noted.urgency(TPOT_S, now + gap_s))
