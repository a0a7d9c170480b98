"""Which SLO held for a request, over a real gateway: headers, models, priorities, and settings that are reloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest

from sage_inference.cli.statusrows import slos
from sage_inference.cli.statusschemas import SLO
from sage_inference.config.settings import ModelSloSettings, SchedulingSettings, SloSettings, SloTimes
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.slo_table import SloTable
from sage_inference.types import RequestPriority
from tests.cli.shape import mistakes
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import Caller, chat, post

STATED = SloSettings(
    ttft_ms=2000,
    background=SloTimes(ttft_ms=70_000),
    models={"gpt": ModelSloSettings(ttft_ms=5000, tpot_ms=200, critical=SloTimes(tpot_ms=90))},
)
GENERAL, OWN = "scheduling.slo", "scheduling.slo.models.gpt"


@pytest.fixture(scope="module", params=[1, 2], ids=["one instance", "two instances"])
def g(request: pytest.FixtureRequest) -> Iterator[InProcess]:
    """One instance gets its request before anything is decided; between two is chosen."""
    with ExitStack() as stack:
        engines = [stack.enter_context(RogueEngine(*[ok()] * 200)) for _ in range(request.param)]
        scheduling = SchedulingSettings(slo=STATED)
        with gateway(*engines, scheduling=scheduling, aliases={"gpt": "m"}) as found:
            yield found


def slo(g: InProcess, *headers: str, model: str = "m") -> dict[str, Any]:
    """That of a chat, as it is explained."""
    with Caller(g.port) as caller:
        reply = caller.send(post("/v1/chat/completions", chat(model=model), *headers)).reply()
    assert reply.status == 200
    path = f"{g.url}/admin/decisions/{dict(reply.headers)['x-request-id']}"
    answer = httpx.get(path, headers=ADMIN, trust_env=False, verify=False).raise_for_status().json()
    found: dict[str, Any] = answer["attempts"][-1]["slo"]
    return found


@pytest.mark.parametrize(
    ("headers", "ttft", "tpot"),
    [
        ((), (5000, OWN), (200, OWN)),
        (("x-sage-priority: high",), (5000, OWN), (200, OWN)),
        (("x-sage-priority: critical",), (5000, OWN), (90, f"{OWN}.critical")),
        (("x-sage-priority: low",), (150_000, OWN), (200, OWN)),
        (("x-sage-priority: background",), (70_000, f"{GENERAL}.background"), (200, OWN)),
        (("x-sage-deadline-ms: 8000",), (8000, "caller"), (200, OWN)),
        (
            ("x-sage-deadline-ms: 8000", "x-sage-priority: background"),
            (8000, "caller"),
            (200, OWN),
        ),
    ],
)
@pytest.mark.parametrize("model", ["m", "gpt"])
def test_the_first_that_is_set_holds(
    g: InProcess, headers: tuple[str, ...], ttft: tuple[float, str], tpot: tuple[float, str], model: str
) -> None:
    found = slo(g, *headers, model=model)
    assert (found["ttft_ms"], found["ttft_from"]) == ttft
    assert (found["tpot_ms"], found["tpot_from"]) == tpot
    assert found["ttft_times"] == (30 if ttft == (150_000, OWN) else 1)


def test_a_reload_holds_for_the_next_request(g: InProcess) -> None:
    before = g.settings_to_load
    try:
        for stated, ttft, tpot in (
            (SloSettings(), (1000, "default"), (50, "default")),
            (SloSettings(tpot_ms=30), (1000, "default"), (30, GENERAL)),
            (SloSettings(normal=SloTimes(ttft_ms=300)), (300, f"{GENERAL}.normal"), (50, "default")),
            (SloSettings(models={"other": ModelSloSettings(ttft_ms=1)}), (1000, "default"), (50, "default")),
        ):
            scheduling = replace(before.scheduling, slo=stated)
            g.settings_to_load = replace(before, scheduling=scheduling)
            httpx.post(
                f"{g.url}/admin/reload", headers=ADMIN, trust_env=False, verify=False
            ).raise_for_status()
            found = slo(g)
            assert (found["ttft_ms"], found["ttft_from"]) == ttft
            assert (found["tpot_ms"], found["tpot_from"]) == tpot
    finally:
        g.settings_to_load = before
        httpx.post(f"{g.url}/admin/reload", headers=ADMIN, trust_env=False, verify=False).raise_for_status()
    assert slo(g)["ttft_from"] == OWN


@pytest.mark.parametrize(
    ("name", "header", "times"),
    [
        ("m.low", "x-sage-priority: low", 30),
        ("m.low", "x-sage-priority: normal", 1),
        ("background", "x-sage-priority: background", 30),
        ("caller", "x-sage-priority: low", 30),
        ("slo.normal", "x-sage-priority: critical", 1),
    ],
)
def test_a_models_name_that_ends_in_a_priority_is_no_priority(name: str, header: str, times: float) -> None:
    stated = SchedulingSettings(slo=SloSettings(models={name: ModelSloSettings(ttft_ms=100)}))
    with RogueEngine(ok(), model=name) as engine, gateway(engine, scheduling=stated) as g:
        found = slo(g, header, model=name)
    assert (found["ttft_ms"], found["ttft_times"]) == (100 * times, times)


def listed(g: InProcess) -> list[dict[str, Any]]:
    answer = httpx.get(f"{g.url}/admin/status", headers=ADMIN, trust_env=False, verify=False)
    found: list[dict[str, Any]] = answer.raise_for_status().json()["slos"]
    for each in found:
        assert mistakes(each, SLO) == []
    return found


def test_status_lists_the_slos_in_effect(g: InProcess) -> None:
    found = {(",".join(each["models"] or ()), each["priority"]): each for each in listed(g)}
    assert len(found) == 2 * len(RequestPriority)
    own, other = found["m", "critical"], found["", "low"]
    assert (own["ttft_ms"], own["ttft_from"], own["tpot_ms"], own["tpot_from"]) == (
        5000,
        OWN,
        90,
        f"{OWN}.critical",
    )
    assert (other["ttft_ms"], other["ttft_from"], other["ttft_times"]) == (60_000, GENERAL, 30)
    assert slos(listed(g)) == [
        "SLO of m at critical priority: first token in 5,000 ms, 90 ms a token after it",
        "SLO of m at high, normal priority: first token in 5,000 ms, 200 ms a token after it",
        "SLO of m at low priority: first token in 150,000 ms, 200 ms a token after it",
        "SLO of m at background priority: first token in 70,000 ms, 200 ms a token after it",
        "SLO of other models at critical, high, normal priority: first token in 2,000 ms, 50 ms a token after it",
        "SLO of other models at low priority: first token in 60,000 ms, 50 ms a token after it",
        "SLO of other models at background priority: first token in 70,000 ms, 50 ms a token after it",
    ]


def test_status_lists_no_slos_while_all_are_the_default() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as door:
        assert listed(door) == []
        assert slos([]) == []


def test_settings_for_all_models_are_one_group() -> None:
    table = SloTable(Registry())
    table.configure(SloSettings(tpot_ms=80))
    table.renew()
    [(models, row)] = table.groups()
    assert models is None
    assert [each.tpot_ms for each in row] == [80] * len(RequestPriority)
    entry = {"models": None, "priority": "normal", "ttft_ms": 1000.0, "tpot_ms": 80.0}
    assert slos([entry]) == [
        "SLO of all models at normal priority: first token in 1,000 ms, 80 ms a token after it"
    ]


def test_many_slos_are_cut_in_the_text() -> None:
    entry = {"priority": "normal", "ttft_ms": 900.5, "tpot_ms": 0.5}
    lines = slos([{**entry, "models": [f"m{number}", "adapter"]} for number in range(20)])
    assert (
        lines[0]
        == "SLO of m0 and 1 more at normal priority: first token in 900.5 ms, 0.5 ms a token after it"
    )
    assert lines[-1] == "and 12 more SLOs; --json has them all"
    assert len(lines) == 9
