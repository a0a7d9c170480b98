"""An instance's pace is not taken from instances of another kind, nor from models that it no longer serves."""

from __future__ import annotations

import pytest

from sage_inference.config.settings import ModelSloSettings, SloSettings
from sage_inference.control_plane.accounting.ledger import Ledger
from sage_inference.control_plane.accounting.prompt_share import LEAST
from sage_inference.control_plane.instances.load import Placement, learn
from sage_inference.control_plane.slo_table import slowness
from sage_inference.replay.slo import ReplaySlo
from sage_inference.types import EngineState, ExecutionInstance, ExecutionInstanceType, InstanceLoad, Usage
from tests.control_plane.parts import Clock, instance, manager, request, submit

K = InstanceLoad().ms_per_token


def answered(
    ledger: Ledger,
    at: ExecutionInstance,
    now: float,
    token_ms: float,
    *,
    model: str = "m",
    streams: bool = False,
) -> None:
    """An answer of 100 tokens ended."""
    asked = request(0, 100, streams=streams)
    asked.model = model
    placement = Placement(at, 1, now, asked)
    ledger.placed(placement, 1, now)
    placement.answered_at = now if streams else now + token_ms / 10
    placement.begun(now + 0.001, False)
    placement.ended(now + token_ms / 10)
    placement.outcome = "done"
    ledger.used(placement, Usage(100, 100))


def renew_each_second(
    ledger: Ledger, start: float, seconds: int, *answers: tuple[ExecutionInstance, float, str]
) -> float:
    now = start
    for _ in range(seconds):
        now += 1.0
        ledger.relative.renew(now)
        for at, token_ms, model in answers:
            answered(ledger, at, now, token_ms, model=model)
    return now


def test_embedders_of_a_mixed_instance_are_no_measure_of_its_prompts() -> None:
    ledger = Ledger()
    mixed, one, two = instance("x"), instance("y"), instance("z")
    mixed.instance_type = ExecutionInstanceType.LLM_EMBEDDING
    mixed.models = ("m", "e")
    embedders = [instance(f"e{number}") for number in range(5)]
    for each in embedders:
        each.instance_type, each.models = ExecutionInstanceType.EMBEDDING, ("e",)
        for _ in range(50):
            learn(each.load, 1000, 2.0)
    ledger.relative.regroup([mixed, one, two, *embedders])
    renew_each_second(ledger, 1000.0, 30, (mixed, 10.0, "m"), (one, 10.0, "m"), (two, 10.0, "m"))
    assert mixed.load.ms_per_token == pytest.approx(K, rel=0.1)


@pytest.mark.parametrize("unloaded", [False, True], ids=["no more asked for", "unloaded"])
def test_a_model_that_was_slow_is_forgotten_while_another_is_at_work(unloaded: bool) -> None:
    ledger = Ledger()
    one, two = instance("a"), instance("b")
    one.models = two.models = ("A", "B")
    ledger.relative.regroup([one, two])
    now = renew_each_second(ledger, 1000.0, 60, (one, 10.0, "A"), (two, 60.0, "A"))
    assert two.load.ms_per_token > 2 * one.load.ms_per_token
    if unloaded:
        one.models = two.models = ("B",)
        ledger.relative.regroup([one, two])
    renew_each_second(ledger, now, 30 if unloaded else 600, (one, 10.0, "B"), (two, 10.0, "B"))
    assert two.load.ms_per_token == pytest.approx(one.load.ms_per_token, rel=0.1)


def test_prompts_of_one_length_teach_for_ever() -> None:
    """The decayed sum of their tokens no longer changes after some two thousand of them."""
    ledger = Ledger()
    busy, idle = instance("a"), instance("b")
    ledger.relative.regroup([busy, idle])
    for _ in range(100):
        learn(idle.load, 400, 40 * 400 * K)
    for _ in range(5000):
        learn(busy.load, 400, 400 * K)
    now = 1000.0
    ledger.relative.renew(now)
    for _ in range(600):
        now += 1.0
        learn(busy.load, 400, 400 * K)
        ledger.relative.renew(now)
    assert idle.load.ms_per_token < 1.5 * busy.load.ms_per_token


def test_an_instance_of_which_nothing_is_known_is_no_measure() -> None:
    ledger = Ledger()
    slow, unknown = instance("a"), instance("b")
    unknown.state = EngineState.EJECTED
    ledger.relative.regroup([slow, unknown])
    for _ in range(200):
        learn(slow.load, 1000, 10 * 1000 * K)
    alone = slowness([slow])
    renew_each_second(ledger, 1000.0, 60, (slow, 10.0, "m"))
    assert alone > 5
    assert slowness([slow, unknown]) == pytest.approx(alone)
    assert slow.load.ms_per_token == pytest.approx(10 * K, rel=0.1)


def test_answers_in_one_piece_show_nothing_of_the_time_of_a_token() -> None:
    ledger = Ledger()
    at = instance("a")
    ledger.relative.regroup([at])
    for number in range(40):
        now = 1000.0 + number
        for _ in range(20):
            answered(ledger, at, now, 200.0)
        answered(ledger, at, now, 200.0, streams=True)
    assert at.load.prompt_share == LEAST


def test_the_nearest_slo_of_all_llms_of_a_gpu_counts_for_its_streams() -> None:
    fast, batch, embedder = instance("fast"), instance("batch"), instance("e")
    fast.models, batch.models = ("fast",), ("batch",)
    embedder.instance_type, embedder.models = ExecutionInstanceType.EMBEDDING, ("e",)
    for each in (fast, batch, embedder):
        each.gpu = "cuda:0"
    m = manager(fast, batch, embedder)
    m.slos.configure(
        SloSettings(models={"fast": ModelSloSettings(tpot_ms=20), "batch": ModelSloSettings(tpot_ms=500)})
    )
    m.registry.changed()
    m.dispatch()
    assert {shared.tpot_s for shared in m._selector.shared.values()} == {0.02}


def test_of_two_aliases_of_a_model_the_last_holds_in_the_replay_too() -> None:
    settings = SloSettings(
        models={"one": ModelSloSettings(ttft_ms=100), "two": ModelSloSettings(ttft_ms=200)}
    )
    assert ReplaySlo(settings, {"one": "m", "two": "m"}).row("m")[0].ttft_ms == 200
    at = instance("a")
    at.models = ("m",)
    m = manager(at, clock=Clock())
    m.registry.aliases = {"one": "m", "two": "m"}
    m.slos.configure(settings)
    m.registry.changed()
    m.dispatch()
    submit(m, request(0, 1))
    assert m.slos.of("m").ttft_ms == 200
