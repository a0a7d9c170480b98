"""Whole measurements against simulated engines: counts are exact, faults are counted, the ceiling is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from sage_inference.bench.errors import BenchError
from sage_inference.bench.exchange import Kind
from sage_inference.bench.measurement import Progress
from sage_inference.bench.plan import Closed, Open, Replay
from sage_inference.bench.slo import SloLimits
from sage_inference.bench.trace import TraceRow
from tests.bench_tool.driving import Listener, measured, plan
from tests.support.gateway import free_port
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, ok, raw
from tests.support.simulators import SimulatedEngine, simulated_engine

ROUTES = {
    Kind.CHAT: "/v1/chat/completions",
    Kind.STREAM: "/v1/chat/completions",
    Kind.EMBEDDINGS: "/v1/embeddings",
}


@pytest.fixture(scope="module")
def shared() -> Iterator[SimulatedEngine]:
    with simulated_engine("vllm", "--runner", "mixed", "--speed", "instant") as running:
        yield running


@pytest.fixture
def engine(shared: SimulatedEngine) -> Iterator[SimulatedEngine]:
    yield shared
    shared.heal()


@pytest.mark.parametrize("kind", list(Kind), ids=str)
@pytest.mark.parametrize("load", [Closed(7), Open(300.0)], ids=["closed", "open"])
def test_each_request_is_sent_once_and_its_tokens_are_the_engines_own_count(
    engine: SimulatedEngine, kind: Kind, load: Closed | Open
) -> None:
    before = engine.stats()["by_route"].get(ROUTES[kind], 0)
    report = measured(plan(engine.port, load, kind, model=engine.model, requests=100, prompt=20, output=6))
    tried = 1
    assert engine.stats()["by_route"][ROUTES[kind]] - before == 100 + tried
    found = report.total
    assert (found.sent, found.ok, found.failed, found.abandoned, found.errors) == (100, 100, 0, 0, {})
    assert found.requests_per_s * report.seconds == pytest.approx(100)
    written = 0 if kind is Kind.EMBEDDINGS else 600
    assert found.output_tokens_per_s * report.seconds == pytest.approx(written)
    assert found.chunks_per_s * report.seconds == pytest.approx(600 if kind is Kind.STREAM else 0)
    # 20 words, and what the engine's template puts around them.
    assert found.prompt_tokens_per_s * report.seconds in [
        pytest.approx(100 * (20 + more)) for more in range(6)
    ]
    assert found.e2e is not None
    assert found.e2e.count == 100


def test_latencies_of_a_stream_are_in_their_order(engine: SimulatedEngine) -> None:
    found = measured(plan(engine.port, Closed(4), "stream", model=engine.model, requests=50, output=8)).total
    assert found.ttft is not None
    assert found.tpot is not None
    assert found.inter_chunk is not None
    assert found.e2e is not None
    assert (found.ttft.count, found.tpot.count, found.inter_chunk.count) == (50, 50, 50 * 7)
    assert 0 < found.ttft.p50 <= found.e2e.p50
    assert found.tpot.mean == pytest.approx(found.inter_chunk.mean, rel=1e-6)


def test_a_mix_has_each_kind_by_its_weight_and_adds_up(engine: SimulatedEngine) -> None:
    report = measured(plan(engine.port, Closed(8), "chat=1,embeddings=3", model=engine.model, requests=400))
    kinds = report.kinds
    assert set(kinds) == {Kind.CHAT, Kind.EMBEDDINGS}
    assert kinds[Kind.CHAT].ok + kinds[Kind.EMBEDDINGS].ok == report.total.ok == 400
    assert kinds[Kind.EMBEDDINGS].ok == pytest.approx(300, abs=60)


def test_a_seed_makes_the_same_requests_again(engine: SimulatedEngine) -> None:
    def bodies(seed: int) -> list[bytes]:
        measured(plan(engine.port, Closed(1), "chat", model=engine.model, requests=5, seed=seed))
        return [request.body for request in engine.requests(5)]

    first = bodies(1)
    assert len(set(first)) == 5
    assert bodies(1) == first
    assert not set(bodies(2)) & set(first)


def test_prompts_of_a_replay_share_what_their_blocks_say(engine: SimulatedEngine) -> None:
    rows = [TraceRow(0, 520, 2, (4, 1)), TraceRow(1, 600, 2, (4, 2))]
    measured(plan(engine.port, Replay(rows), "chat", model=engine.model))
    one, other = (request.json()["messages"][0]["content"].split() for request in engine.requests(2))
    assert one[:512] == other[:512]
    assert one[512:] != other[512:520]


def test_every_failure_is_counted_by_its_kind(engine: SimulatedEngine) -> None:
    ran = plan(engine.port, Closed(3), "stream", model=engine.model, requests=60, output=5)
    healthy = {"delay_ms": 0, "count": 1}  # the try before the load
    engine.faults(
        [
            healthy,
            {"status": 503, "count": 4, "body": '{"error":{"message":"too busy"}}'},
            {"reset_before_response": True, "count": 3},
            {"close_after_chunks": 2, "count": 2},
            {"error_after_chunks": 2, "count": 5},
            {"garbage": True, "count": 1},
        ]
    )
    found = measured(ran).total
    assert {kind: one.count for kind, one in found.errors.items()} == {
        "http_503": 4,
        "reset": 3,
        "closed": 2,
        "stream_error": 5,
        "garbage": 1,
    }
    assert found.errors["http_503"].example == "too busy"
    assert (found.sent, found.ok, found.failed) == (60, 45, 15)
    assert found.e2e is not None
    assert found.e2e.count == 45


def test_an_engine_that_hangs_up_in_mid_run_is_counted_and_the_run_goes_on(engine: SimulatedEngine) -> None:
    engine.faults(hang=True, count=2)
    found = measured(plan(engine.port, Closed(2), model=engine.model, requests=10, timeout_s=0.5)).total
    assert found.errors["timeout"].count >= 1
    assert found.sent == found.ok + found.failed == 10
    engine.wait(disconnects=2)


def test_goodput_under_a_limit_that_all_keep_and_one_that_none_does(engine: SimulatedEngine) -> None:
    def share(slo: SloLimits) -> float | None:
        return measured(
            plan(engine.port, Closed(2), "stream", model=engine.model, requests=20, slo=slo)
        ).total.good_share

    assert share(SloLimits(ttft=60_000, tpot=60_000)) == 1.0
    assert share(SloLimits(e2e=0.000_001)) == 0.0
    assert share(SloLimits()) is None


def test_the_warm_up_is_load_and_not_measured(engine: SimulatedEngine) -> None:
    before = engine.stats()["requests"]
    report = measured(plan(engine.port, Open(200.0), model=engine.model, warmup_s=0.5, duration_s=0.5))
    arrived = engine.stats()["requests"] - before
    assert report.seconds == pytest.approx(0.5)
    assert 0 < report.total.sent < arrived - 1
    assert report.total.e2e is not None
    assert report.total.e2e.count == report.total.ok


def test_through_a_gateway_as_through_an_engine(engine: SimulatedEngine) -> None:
    with gateway(engine) as running:
        running.until(lambda run: all(one.instance.models for one in run.gateway.engines.values()))
        report = measured(plan(running.port, Closed(8), "mixed", model=engine.model, requests=300))
        assert (report.total.sent, report.total.ok, report.total.errors) == (300, 300, {})
        assert running.ask(lambda run: run.gateway.in_flight) == 0


def test_an_interrupt_keeps_what_was_measured_and_tells_the_server(engine: SimulatedEngine) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.ok:
            os.kill(os.getpid(), signal.SIGINT)

    engine.faults([{"delay_ms": 0, "count": 6}, {"hang": True}])
    report = measured(plan(engine.port, Closed(3), model=engine.model, duration_s=60.0), interrupt)
    assert report.interrupted
    assert (report.total.sent, report.total.ok, report.total.abandoned) == (8, 5, 3)
    assert report.seconds < 30
    engine.wait(running=0)


def test_progress_is_told_while_it_runs(engine: SimulatedEngine) -> None:
    told: list[Progress] = []
    measured(plan(engine.port, Closed(2), model=engine.model, duration_s=0.6), told.append)
    assert [one.share for one in told] == sorted(one.share or 0 for one in told)
    assert max(one.ok for one in told) > 0


@pytest.mark.parametrize("kind", list(Kind), ids=str)
def test_the_ceiling_is_measured_with_the_same_kind_of_request(engine: SimulatedEngine, kind: Kind) -> None:
    ran = plan(engine.port, Closed(4), kind, model=engine.model, requests=10, ceiling=True)
    found = measured(ran).own.ceiling
    assert found is not None
    assert found.concurrency == 4
    assert found.requests_per_s > 100
    assert (found.chunks_per_s > 100) == (kind is Kind.STREAM)
    assert 0 < found.cpu < 1.5


def test_the_ceiling_of_answers_too_long_to_end_is_told_in_chunks(engine: SimulatedEngine) -> None:
    ran = plan(
        engine.port,
        Replay([TraceRow(0, 5, 400_000)]),
        "stream",
        model=engine.model,
        ceiling=True,
        timeout_s=1.0,
    )
    found = measured(ran).own.ceiling
    assert found is not None
    assert found.chunks_per_s > 100


def test_more_load_than_the_generator_can_send_is_owned_up_to(engine: SimulatedEngine) -> None:
    with RogueEngine(ok('{"choices":[]}')) as rogue:
        report = measured(plan(rogue.port, Open(500_000.0), requests=6_000))
    assert any("late" in reason or "of a core" in reason for reason in report.own.reasons)
    assert report.own.late is not None
    assert report.own.late.count == 6_000


def test_what_is_hopeless_is_told_before_the_load() -> None:
    with RogueEngine(ok('{"error":{"message":"no such model"}}', status="404 No")) as rogue:
        with pytest.raises(BenchError) as error:
            measured(plan(rogue.port, Closed(1), requests=9))
        assert len(rogue.requests) == 1
    assert str(error.value).endswith("answers a request of kind chat with 404: no such model")
    assert error.value.code == "http_404"


def test_nobody_there_is_told_before_the_load() -> None:
    port = free_port()
    with pytest.raises(BenchError, match=f"127.0.0.1:{port} cannot be reached: connection refused"):
        measured(plan(port, Closed(1), requests=9))


def test_a_server_that_is_busy_at_first_is_measured_all_the_same() -> None:
    with RogueEngine(raw(b"", then="reset"), ok('{"choices":[]}')) as rogue:
        assert measured(plan(rogue.port, Closed(1), requests=9)).total.ok == 9


def test_the_steps_are_told(engine: SimulatedEngine) -> None:
    from sage_inference.bench.run import run

    listener = Listener()
    run(plan(engine.port, Closed(1), model=engine.model, requests=1), listener)
    assert listener.steps == ["trying one request of each kind", "measuring"]
