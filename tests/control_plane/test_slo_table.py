"""What the operator wants of each model and priority, and the defaults that follow the engines' pace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.config.settings import PRIORITIES, ModelSloSettings, SloSettings, SloTimes
from sage_inference.control_plane.instances.load import learn
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.slo import BATCH, DEFAULT, slo_of, ttft_s
from sage_inference.control_plane.slo_table import SloTable, row, slowness
from sage_inference.types import ExecutionInstance, ExecutionInstanceType, RequestPriority
from tests.control_plane.parts import EMBED, Clock, configure, instance, manager, request, submit
from tests.support.cpu import cpu_time

BELOW = (RequestPriority.LOW, RequestPriority.BACKGROUND)
MS = st.none() | st.floats(1, 86_400_000)
TIMES = st.builds(SloTimes, ttft_ms=MS, tpot_ms=MS)
BY_PRIORITY = dict.fromkeys(PRIORITIES, TIMES)
OF_MODEL = st.builds(ModelSloSettings, ttft_ms=MS, tpot_ms=MS, **BY_PRIORITY)
SETTINGS = st.builds(
    SloSettings,
    ttft_ms=MS,
    tpot_ms=MS,
    models=st.dictionaries(st.sampled_from(["m", "n"]), OF_MODEL),
    **BY_PRIORITY,
)


def engine(
    name: str = "a",
    pace: float = 0.03,
    prompts: int = 300,
    tokens: int = 2000,
    kind: ExecutionInstanceType = ExecutionInstanceType.GENERAL,
) -> ExecutionInstance:
    """One that worked off so many prompts at this pace."""
    found = instance(name)
    found.instance_type = kind
    for _ in range(prompts):
        learn(found.load, tokens, pace * tokens)
    return found


@given(SETTINGS, st.sampled_from(["m", "n", "o"]), st.sampled_from(RequestPriority), st.floats(2, 100))
@settings(deadline=None)
def test_the_first_that_is_stated_holds(
    stated: SloSettings, model: str, priority: RequestPriority, slow: float
) -> None:
    own = stated.models.get(model)
    found = row(stated, (model, own) if own else None, slow)[priority]
    word = priority.name.lower()
    for key, default, times in (
        ("ttft_ms", 1000 * slow, BATCH if priority in BELOW else 1),
        ("tpot_ms", 50 * slow, 1),
    ):
        of_priority: list[SloTimes] = [getattr(each, word) for each in (own, stated) if each]
        alone = [getattr(each, key) for each in of_priority if getattr(each, key) is not None]
        wide = [
            getattr(each, key) * times for each in (own, stated) if each and getattr(each, key) is not None
        ]
        assert getattr(found, key) == [*alone, *wide, default * times][0]
        assert getattr(found, f"{key[:4]}_from").startswith("scheduling.slo" if alone or wide else "default")


@given(SETTINGS, st.sampled_from([*RequestPriority]), st.floats(1, 100), st.floats(1, 10), MS)
@settings(deadline=None)
def test_more_stated_or_slower_is_never_less(
    stated: SloSettings, priority: RequestPriority, slow: float, more: float, at_most: float | None
) -> None:
    """Raising any one value, or the pace, never shortens an SLO; one key never changes the other time."""
    own = stated.models.get("m")
    named = ("m", own) if own else None
    before = row(stated, named, slow)[priority]
    slower = row(stated, named, slow * more)[priority]
    assert slower.ttft_ms >= before.ttft_ms
    assert slower.tpot_ms >= before.tpot_ms
    if stated.ttft_ms is not None:
        raised = row(replace(stated, ttft_ms=stated.ttft_ms * more), named, slow)[priority]
        assert raised.ttft_ms >= before.ttft_ms
        assert raised.tpot_ms == before.tpot_ms


@given(MS, MS, st.floats(1, 100))
@settings(deadline=None)
def test_without_priorities_of_their_own_the_less_important_never_have_less(
    general: float | None, own: float | None, slow: float
) -> None:
    times = [
        slo.ttft_ms for slo in row(SloSettings(ttft_ms=general), ("m", ModelSloSettings(ttft_ms=own)), slow)
    ]
    assert times == sorted(times)


def test_nothing_stated_on_usual_engines_is_a_second_thirty_and_fifty_ms() -> None:
    assert row(SloSettings()) == DEFAULT
    assert [slo.ttft_ms for slo in DEFAULT] == [1000, 1000, 1000, 30_000, 30_000]
    assert {slo.tpot_ms for slo in DEFAULT} == {50}


PACES: list[tuple[str, Callable[[], list[ExecutionInstance]], float]] = [
    ("usual", lambda: [engine()], 1),
    ("faster", lambda: [engine(pace=0.006)], 1),
    ("busy with streams and embeddings", lambda: [engine(pace=0.066)], 1),
    ("short prompts beside many streams", lambda: [engine(pace=0.3, tokens=90)], 1),
    ("five times as slow", lambda: [engine(pace=0.15)], 5),
    ("all four", lambda: [engine(str(n), pace=0.15) for n in range(4)], 5),
    ("short prompts on slow ones", lambda: [engine(pace=0.15 * 5, tokens=100)], 15 * 5 / 0.03 / 512),
    ("one slow among equals", lambda: [engine("a"), engine("b"), engine("c", pace=0.15)], 1),
    ("half of them slow", lambda: [engine("a"), engine("b", pace=0.15)], 1),
    ("one that has learned nothing", lambda: [engine("a", prompts=0), engine("b", pace=0.15)], 5),
    ("none has learned", lambda: [engine(prompts=0)], 1),
    ("only embeds", lambda: [engine(pace=0.15, kind=ExecutionInstanceType.EMBEDDING)], 1),
    ("decodes only", lambda: [engine("a", pace=0.15, kind=ExecutionInstanceType.DECODING), engine("b", kind=ExecutionInstanceType.PREFILLING)], 1),
    ("none", lambda: [], 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "engines", "times"), PACES, ids=[name for name, *_ in PACES])
def test_slowness(name: str, engines: Callable[[], list[ExecutionInstance]], times: float) -> None:
    assert slowness(engines()) == pytest.approx(times, rel=0.02)


@given(st.floats(1, 50), st.lists(st.floats(0.9, 1.1), min_size=1, max_size=20))
@settings(deadline=None)
def test_chance_moves_the_default_once_at_most(slow: float, noise: list[float]) -> None:
    load = (learned := engine(prompts=1)).load
    held, changes = 1.0, 0
    for factor in noise:
        load.busy_ms = 0.03 * slow * factor * load.paced_tokens
        found = slowness([learned], held)
        changes += found != held
        held = found
    assert changes <= 1


def test_requests_carry_theirs_once_some_differ() -> None:
    clock = Clock()
    m = manager(engine(pace=0.15), clock=clock, policy="hybrid")
    first = submit(m, request("first"))
    assert first.request.slo is None, "paces are looked at when it was sent"
    second = submit(m, request("second"))
    assert ttft_s(second.request) == pytest.approx(5, rel=0.02)
    assert slo_of(second.request).tpot_ms == pytest.approx(250, rel=0.02)
    assert ttft_s(submit(m, request("third", deadline_ms=70_000)).request) == 70


def test_settings_are_for_the_served_model_behind_a_name() -> None:
    m = manager(instance("a"), clock=Clock())
    m.registry.aliases = {"gpt": "m"}
    m.registry.changed()
    slos = SloTable(m.registry)
    slos.configure(SloSettings(models={"gpt": ModelSloSettings(tpot_ms=7)}))
    slos.renew()
    assert slos.of("m").tpot_ms == 7
    assert slos.of("m").tpot_from == "scheduling.slo.models.gpt"
    assert slos.of("other").tpot_ms == 50
    slos.configure(SloSettings(models={"gpt": ModelSloSettings(tpot_ms=7), "m": ModelSloSettings(tpot_ms=9)}))
    slos.renew()
    assert slos.of("m").tpot_ms == 9, "its own name before another"


def test_a_waiting_request_heeds_new_settings() -> None:
    clock = Clock()
    m = manager(instance("a", 1), clock=clock, policy="slo_aware")
    submit(m, request("runs"))
    waits = submit(m, request("waits"))
    assert waits.where is None
    before = waits.place.due_at
    m.slos.configure(SloSettings(ttft_ms=4000))
    m.use(m.policy)
    assert ttft_s(waits.request) == 4
    assert waits.place.due_at == before + 9


def test_streams_that_share_a_gpu_keep_their_models_time() -> None:
    llm, encoder = instance("a", gpu="0"), instance("b", gpu="0", model="e", route=EMBED)
    m = manager(llm, encoder)
    configure(m, llm_share=None)
    for stated, seconds in (
        (SloSettings(models={"m": ModelSloSettings(tpot_ms=200)}), 0.2),
        (SloSettings(), 0.05),
    ):
        m.slos.configure(stated)
        m.use(m.policy)
        assert m.gpus["0"].tpot_s == seconds


def test_models_of_the_same_engines_have_the_same_pace_and_others_their_own() -> None:
    slow, shared, usual = engine("a", pace=0.15), engine("b", pace=0.15), engine("c")
    for each, models in (
        (slow, ("m", "adapter")),
        (shared, ("m", "adapter", "both")),
        (usual, ("both", "fast")),
    ):
        each.models = models
    slos = SloTable(manager(slow, shared, usual).registry)
    assert slos.follow()
    assert [round(slos.of(model).ttft_ms / 1000) for model in ("m", "adapter", "both", "fast")] == [
        5,
        5,
        1,
        1,
    ]
    assert not slos.follow()
    for each in (slow, shared):
        each.load.busy_ms /= 5
    assert slos.follow(), "they were mended"
    assert slos.of("m").ttft_ms == 1000


def fleet(served: Callable[[int], tuple[str, ...]], slow: Callable[[int], bool]) -> tuple[SloTable, Registry]:
    """200 instances, and what each serves; a slow one takes 0.3 ms a prompt token."""
    registry = Registry()
    for number in range(200):
        one = instance(f"i{number}")
        one.models = served(number)
        one.load.taught, one.load.busy_ms = 100, one.load.paced_tokens * (0.3 if slow(number) else 0.03)
        registry.instances[one.instance_id] = one
    registry.changed()
    return SloTable(registry), registry


ADAPTERS = tuple(f"m{n}" for n in range(1000))
SERVED: dict[str, Callable[[int], tuple[str, ...]]] = {
    "all serve all": lambda number: ADAPTERS,
    "each serves a part": lambda number: tuple(m for at, m in enumerate(ADAPTERS) if (at * 7 + number) % 2),
    "none serves another's": lambda number: tuple(f"{m} of {number}" for m in ADAPTERS[:50]),
}


@pytest.mark.parametrize("slow", [lambda number: True, lambda number: number % 3 > 0], ids=["all", "most"])
@pytest.mark.parametrize("served", SERVED.values(), ids=SERVED)
def test_many_instances_and_adapters_are_looked_at_in_pieces(
    served: Callable[[int], tuple[str, ...]], slow: Callable[[int], bool]
) -> None:
    slos, registry = fleet(served, slow)
    slos.renew()
    slos.follow()  # the first sees the registry's change
    took = []
    for second in range(12):
        if second == 6:
            for each in registry.instances.values():
                each.load.busy_ms *= 3  # another slowness
        with cpu_time() as spent:
            slos.follow()
        took.append(spent.seconds)
    assert median(took) < 0.03  # 5 ms each; 60 and more each in one piece
    for number, each in enumerate(registry.instances.values()):
        if served is not SERVED["none serves another's"] or slow(number):
            assert slos.of(each.models[0]).ttft_ms > 20_000


def test_a_model_that_is_served_no_more_loses_its_slowness() -> None:
    slos, registry = fleet(lambda number: (f"m{number}",), lambda number: True)
    assert slos.follow()
    assert slos.of("m7").ttft_ms > 5000
    registry.remove("i7")
    slos.renew()
    assert slos.of("m7").ttft_ms == 1000
    assert slos.of("m8").ttft_ms > 5000
