"""LLM and embedding work on one GPU."""

from __future__ import annotations

import pytest

from sage_inference.control_plane.instances.gpu_cost import GROUP, REFRESH_S
from sage_inference.control_plane.instances.gpu_sharing import MOST_BESIDE
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.types import EngineState, ExecutionInstance, ExecutionInstanceType
from tests.control_plane.parts import (
    CHAT,
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


def pair(clock: Clock) -> tuple[Scheduler, list[float]]:
    m = manager(
        instance("llm", gpu="cuda:0"), instance("embedder", model="e", route=EMBED, gpu="cuda:0"), clock=clock
    )
    alarms = alarms_of(m)
    return m, alarms


def embed(m: Scheduler, name: str, tokens: int = 1000) -> Submitted:
    return submit(m, request(name, tokens, model="e", route=EMBED))


def end(m: Scheduler, submission: Submitted) -> None:
    m.first_byte(submission)
    m.release(submission)


def learned_alone(m: Scheduler, clock: Clock, seconds: float) -> None:
    call = embed(m, "alone")
    clock.now += seconds
    end(m, call)


def test_embeddings_have_the_gpu_to_themselves_while_no_stream_runs() -> None:
    m, _ = pair(Clock())
    assert all(embed(m, str(n)).where for n in range(5))


def test_while_a_stream_runs_calls_go_one_at_a_time_and_pause_for_its_share() -> None:
    """A call that takes 30 ms alone and 60 beside streams: at ratio 0.7 the next comes 100 ms after its start."""
    clock = Clock()
    m, alarms = pair(clock)
    learned_alone(m, clock, 0.030)
    stream = submit(m, request("stream"))
    start = clock.now
    first, second = embed(m, "first"), embed(m, "second")
    assert (first.where is None, second.where is None) == (False, True)
    clock.now += 0.060
    end(m, first)
    assert second.where is None
    assert alarms[-1] == pytest.approx(start + 0.030 / 0.3)
    clock.now = alarms[-1]
    m.dispatch()
    assert second.where is not None
    end(m, stream)


def test_a_call_with_company_for_a_part_of_its_time_teaches_nothing() -> None:
    """Taken for the pace in company, its 35 ms would have made the pause after a call of 60 ms none at all."""
    clock = Clock()
    m, alarms = pair(clock)
    partly = embed(m, "partly")
    clock.now += 0.030
    stream = submit(m, request("stream"))
    clock.now += 0.005
    end(m, partly)
    clock.now += 1.0
    start = clock.now
    beside = embed(m, "beside")
    clock.now += 0.060
    end(m, beside)
    assert embed(m, "next").where is None
    assert alarms[-1] == pytest.approx(start + 0.45 * 0.060 / 0.3)
    end(m, stream)


def test_calls_that_waited_in_the_engine_behind_another_teach_nothing() -> None:
    clock = Clock()
    m, alarms = pair(clock)
    calls = [embed(m, str(n)) for n in range(8)]
    for call in calls:
        clock.now += 0.030
        end(m, call)
    stream = submit(m, request("stream"))
    start = clock.now
    beside = embed(m, "beside")
    clock.now += 0.060
    end(m, beside)
    assert embed(m, "next").where is None
    assert alarms[-1] == pytest.approx(start + 0.030 / 0.3)
    end(m, stream)


def test_what_the_streams_do_not_use_is_lent() -> None:
    clock = Clock()
    m, _ = pair(clock)
    stream = submit(m, request("stream"))
    first, second = embed(m, "first"), embed(m, "second")
    clock.now += 0.060
    end(m, first)
    assert second.where is None
    end(m, stream)
    assert second.where is not None


def test_with_no_share_for_streams_nothing_pauses() -> None:
    clock = Clock()
    m, _ = pair(clock)
    configure(m, llm_share=0.0)
    m.registry.changed()
    submit(m, request("stream"))
    first, second = embed(m, "first"), embed(m, "second")
    clock.now += 0.060
    end(m, first)
    assert second.where is not None


def test_instances_on_gpus_of_their_own_share_nothing() -> None:
    m = manager(instance("llm"), instance("embedder", model="e", route=EMBED))
    submit(m, request("stream"))
    assert all(embed(m, str(n)).where for n in range(5))
    assert not m.gap_listener(submit(m, request("other")))


def test_gaps_of_streams_are_watched_only_where_embeddings_have_to_pause() -> None:
    m, _ = pair(Clock())
    stream = submit(m, request("stream"))
    for share, watched in ((0.7, True), (0.0, False), (None, True)):
        configure(m, llm_share=share)
        m.registry.changed()
        m.dispatch()
        assert bool(m.gap_listener(stream)) is watched


def test_gaps_are_noted_from_the_first_embedding_call_until_a_minute_after_the_last() -> None:
    clock = Clock()
    m, _ = pair(clock)
    end(m, submit(m, request("stream")))
    gpu = m._gpus["cuda:0"]
    assert not gpu.watches
    clock.now += 5
    call = embed(m, "call")
    assert (gpu.watches, gpu.watches_since) == (True, clock.now)
    clock.now += 100
    end(m, submit(m, request("during the call")))
    assert gpu.watches
    end(m, call)
    for seconds, watches in ((59, True), (2, False)):
        clock.now += seconds
        end(m, submit(m, request(f"after {seconds}")))
        assert gpu.watches is watches
    embed(m, "again")
    assert (gpu.watches, gpu.watches_since) == (True, clock.now)


class Beside:
    """Streams with a chunk every ``usual_s``, and calls that use the GPU for ``gpu_s`` of their ``call_s``."""

    def __init__(self, usual_s: float, call_s: float, gpu_s: float) -> None:
        self.clock = Clock()
        self.m, self.alarms = pair(self.clock)
        stream = submit(self.m, request("stream"))
        tell = self.m.gap_listener(stream)
        assert tell is not None
        self.tell = tell
        self.usual_s, self.call_s, self.gpu_s = usual_s, call_s, gpu_s
        self.calls: list[float] = []  # their begins
        self.told = 0

    def chunks(self, seconds: float, lost_s: float = 0.0) -> None:
        """Let time pass. The streams lose ``lost_s`` of it, and have a long gap for a prompt now and then."""
        if not seconds:
            return
        gap_s = self.usual_s * seconds / (seconds - lost_s)
        until = self.clock.now + seconds
        while self.clock.now + gap_s <= until:
            self.clock.now += gap_s
            self.tell(gap_s, self.clock.now)
            self.told += 1
            if self.told % 20 == 0:
                self.tell(0.2, self.clock.now)
        self.clock.now = until

    def call(self) -> None:
        """A call, as soon as one may begin. Those who share a GPU lose a tenth of it."""
        made = embed(self.m, str(len(self.calls)), 10_000)
        if made.where is None:
            self.chunks(max(0.0, self.m._gpus["cuda:0"].resumes_at - self.clock.now))
            self.m.dispatch()
        assert made.where is not None
        self.calls.append(self.clock.now)
        self.chunks(self.call_s, lost_s=self.gpu_s * 0.55 / 0.45)
        end(self.m, made)

    @property
    def interval_s(self) -> float:
        return (self.calls[-1] - self.calls[-11]) / 10


@pytest.mark.parametrize("usual_s", [0.004, 0.010, 0.030])
@pytest.mark.parametrize("gpu_s", [0.005, 0.015, 0.030, 0.060])
def test_the_cost_of_a_call_is_what_the_streams_lose_and_not_its_wall_time(
    usual_s: float, gpu_s: float
) -> None:
    beside = Beside(usual_s, 0.150, gpu_s)
    for _ in range(60):
        beside.call()
    cost = beside.m._gpus["cuda:0"].cost
    assert cost.seconds_a_token == pytest.approx(gpu_s / 10_000, rel=0.35)
    assert not cost.looking


def test_calls_are_spaced_by_their_cost() -> None:
    cheap, dear = Beside(0.010, 0.150, 0.015), Beside(0.010, 0.300, 0.120)
    for beside in (cheap, dear):
        for _ in range(60):
            beside.call()
    assert cheap.interval_s == pytest.approx(0.150)  # 0.015 / 0.3 is less than the call itself takes
    assert dear.interval_s == pytest.approx(0.120 / 0.3, rel=0.15)


def test_once_the_cost_is_known_several_calls_go_beside_streams() -> None:
    beside = Beside(0.010, 0.150, 0.015)
    first, second = embed(beside.m, "a"), embed(beside.m, "b")
    assert (first.where is None, second.where is None) == (False, True)
    beside.m.withdraw(second)
    end(beside.m, first)
    for _ in range(60):
        beside.call()
    calls = [embed(beside.m, f"more {n}", 10) for n in range(MOST_BESIDE + 2)]
    for _ in range(20):
        beside.clock.now += 0.01
        beside.m.dispatch()
    assert sum(call.where is not None for call in calls) == MOST_BESIDE


def looking(call_s: float) -> Beside:
    """After calls of so long that went alone, of which the streams notice something."""
    beside = Beside(0.010, call_s, 0.015)
    for _ in range(3):
        beside.call()
    beside.chunks(max(0.0, beside.m._gpus["cuda:0"].resumes_at - beside.clock.now))
    assert beside.m._gpus["cuda:0"].cost.looking
    return beside


def begun(calls: list[Submitted]) -> int:
    return sum(call.where is not None for call in calls)


def test_while_the_cost_is_looked_at_calls_go_in_groups_with_pauses_between_them() -> None:
    beside = looking(0.100)
    calls = [embed(beside.m, f"group {n}") for n in range(2 * GROUP + 1)]
    assert begun(calls) == GROUP
    for call in calls[:GROUP]:
        beside.chunks(0.050)
        end(beside.m, call)
        beside.m.dispatch()
    assert begun(calls) == GROUP
    beside.chunks(0.101)
    beside.m.dispatch()
    assert begun(calls) == 2 * GROUP


def test_long_calls_are_looked_at_one_at_a_time() -> None:
    beside = looking(0.300)
    assert begun([embed(beside.m, f"group {n}") for n in range(3)]) == 1


def test_a_call_that_is_late_joins_no_group() -> None:
    beside = looking(0.100)
    first = embed(beside.m, "first")
    beside.chunks(0.250)
    assert begun([first, embed(beside.m, "late")]) == 1


def test_a_stream_that_is_about_to_miss_its_slo_doubles_the_spaces_and_has_one_call_beside_it() -> None:
    beside = Beside(0.010, 0.150, 0.060)
    for _ in range(60):
        beside.call()
    usual = beside.interval_s
    beside.chunks(0.5)
    for _ in range(60):
        beside.tell(0.8, beside.clock.now)  # behind the plan, and not lost yet
        beside.tell(0.0, beside.clock.now)
    gpu = beside.m._gpus["cuda:0"]
    while gpu.streams.urgency(gpu.tpot_s, beside.clock.now) == 0.0:
        beside.tell(0.0, beside.clock.now)
    assert gpu.streams.urgency(gpu.tpot_s, beside.clock.now) > 1.0
    before = beside.clock.now
    beside.clock.now += 0.02
    assert begun([embed(beside.m, f"more {n}", 10_000) for n in range(2)]) == 1
    assert gpu.resumes_at - before == pytest.approx(2 * usual, rel=0.2)


def test_the_cost_is_looked_at_again() -> None:
    beside = Beside(0.010, 0.150, 0.060)
    while beside.m._gpus["cuda:0"].cost.seconds_a_token is None:
        beside.call()
    before = beside.m._gpus["cuda:0"].cost.seconds_a_token
    beside.gpu_s = 0.010
    for _ in range(4):
        beside.clock.now += REFRESH_S
        for _ in range(20):
            beside.call()
    after = beside.m._gpus["cuda:0"].cost.seconds_a_token
    assert before is not None
    assert after is not None
    assert after < 0.6 * before


def test_a_look_ends_with_the_streams() -> None:
    beside = Beside(0.010, 0.150, 0.060)
    for _ in range(5):
        beside.call()
    gpu = beside.m._gpus["cuda:0"]
    assert gpu.cost.looking
    stream = submit(beside.m, request("another"))
    beside.m.release(stream)
    assert gpu.cost.looking
    gpu.cost.interrupted()
    assert not gpu.cost.looking
    for _ in range(30):
        beside.call()
    assert gpu.cost.seconds_a_token == pytest.approx(0.060 / 10_000, rel=0.35)


def mixed(name: str) -> ExecutionInstance:
    made = instance(name)
    made.instance_type = ExecutionInstanceType.LLM_EMBEDDING
    made.routes = frozenset({CHAT, EMBED})
    return made


def test_a_specialised_instance_is_preferred_until_it_would_be_late() -> None:
    both, special = mixed("both"), instance("special", window=float("inf"))
    m = manager(both, special)
    assert {submit(m, request(n)).where for n in range(6)} == {special}
    special.load.pending_tokens = 40_000  # 1200 ms at 0.03
    special.load.progress_at = 1000.0
    assert submit(m, request("late")).where is both


def test_a_mixed_instance_serves_where_no_specialised_one_is_well() -> None:
    both, special = mixed("both"), instance("special")
    special.state = EngineState.EJECTED
    assert submit(manager(both, special), request()).where is both


def test_a_gpu_is_forgotten_when_its_instances_left_and_its_work_ended() -> None:
    clock = Clock()
    m = manager(instance("llm", gpu="0"), instance("e", model="e", route=EMBED, gpu="0"), clock=clock)
    stream = submit(m, request("stream"))
    for name in ("llm", "e"):
        m.registry.remove(name)
    m.dispatch()
    assert set(m._gpus) == {"0"}  # the stream still counts on it
    m.release(stream)
    for number in range(50):
        mixed = ExecutionInstance(f"mixed {number}", "h", 1, instance_type="mixed", models=("x",))
        m.registry.add(mixed)
        m.dispatch()
        m.registry.remove(mixed.instance_id)
    m.registry.changed()
    m.dispatch()
    assert m._gpus == {}


def test_a_gpu_that_loses_one_kind_of_work_for_a_while_is_remembered() -> None:
    m = manager(instance("llm", gpu="0"), instance("e", model="e", route=EMBED, gpu="0"), clock=Clock())
    submit(m, request("stream"))
    encoder = m.registry.remove("e")
    m.dispatch()
    assert encoder is not None
    encoder.state = EngineState.READY
    m.registry.add(encoder)
    m.dispatch()
    assert m._gpus["0"].llm == 1
