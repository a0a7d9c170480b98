"""LLM and embedding work on one GPU."""

from __future__ import annotations

import pytest

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


def test_the_adaptive_pause_grows_while_gaps_are_long_and_shrinks_after() -> None:
    clock = Clock()
    m, _ = pair(clock)
    configure(m, llm_share=None)
    m.registry.changed()
    stream = submit(m, request("stream"))

    def pauses(gap_s: float) -> float:
        tell = m.gap_listener(stream.where)  # type: ignore[arg-type]
        assert tell is not None
        for _ in range(30):
            tell(gap_s)
        call = embed(m, "call")
        clock.now += 0.010
        end(m, call)
        after = m._selector.shared[call.where].resumes_at - clock.now  # type: ignore[index]
        clock.now += after
        return after

    grown = [pauses(0.040) for _ in range(5)]
    assert grown == pytest.approx([0.004, 0.008, 0.012, 0.016, 0.020])
    assert pauses(0.010) == pytest.approx(0.9 * 0.020 - 0.0005)
    assert [pauses(0.040) for _ in range(200)][-1] == pytest.approx(0.4)


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
    assert not m.gap_listener(m.registry.instances["llm"])


def test_gaps_of_streams_are_watched_only_where_the_pause_goes_by_them() -> None:
    m, _ = pair(Clock())
    submit(m, request("stream"))
    llm = m.registry.instances["llm"]
    assert not m.gap_listener(llm)
    configure(m, llm_share=None)
    m.registry.changed()
    m.dispatch()
    assert m.gap_listener(llm)


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
