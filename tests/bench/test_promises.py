"""What was promised, judged from figures."""

from __future__ import annotations

import pytest

from tests.bench import report
from tests.bench.promises import DIRECT, OURS, PROMISES, Promise
from tests.bench.results import Results
from tests.bench.scenarios import SCENARIOS
from tests.bench.scenarios.base import Figures


def results(scenario: str, **targets: Figures) -> Results:
    """One round; underscores in targets' names stand for hyphens."""
    found = Results()
    for name, figures in targets.items():
        found.add(scenario, name.replace("_", "-"), figures)
    return found


def promise(start: str) -> Promise:
    [found] = [promise for promise in PROMISES if promise.claim.startswith(start)]
    return found


def test_nothing_is_promised_of_what_was_not_measured() -> None:
    assert [p.claim for p in PROMISES if p.figure(Results()) is not None] == []


def test_claims_are_told_apart() -> None:
    assert len({p.claim for p in PROMISES}) == len(PROMISES)


def test_a_rate_is_a_ratio_of_medians_over_rounds() -> None:
    found = Results()
    for ours, theirs in ((30.0, 10.0), (60.0, 20.0), (10.0, 20.0)):
        found.add("plain", OURS, {"per_s": ours})
        found.add("plain", "sglang-router", {"per_s": theirs})
    assert promise("plain, requests/s ÷ sglang").figure(found) == 1.5


def test_the_better_router_is_the_one_with_the_least_cost() -> None:
    found = results(
        "paced", sage_inference={"cpu_us": 10.0}, vllm_router={"cpu_us": 8.0}, sglang_router={"cpu_us": 16.0}
    )
    rule = promise("paced streams")
    assert rule.figure(found) == 1.25
    assert not rule.holds(1.25)


def test_the_better_router_is_the_one_with_the_highest_rate() -> None:
    found = results(
        "saturated",
        sage_inference={"chunks_per_s": 19.0},
        vllm_router={"chunks_per_s": 5.0},
        sglang_router={"chunks_per_s": 20.0},
    )
    rule = promise("saturated streams")
    assert rule.figure(found) == 0.95
    assert rule.holds(0.95)


def test_one_router_is_enough() -> None:
    found = results("paced", sage_inference={"cpu_us": 10.0}, vllm_router={"cpu_us": 8.0})
    assert promise("paced streams").figure(found) == 1.25


def test_added_latency_leaves_out_what_direct_access_takes() -> None:
    key = "latency_p50_us"
    found = results("rate", direct={key: 50.0}, sage_inference={key: 120.0}, vllm_router={key: 150.0})
    assert promise("200 requests/s, added p50").figure(found) == pytest.approx(0.7)


def test_the_engines_count_may_be_off_either_way() -> None:
    rule = promise("plain, engine's count")
    for counted in (0.98, 1.02):
        assert rule.figure(results("plain", sage_inference={"counted": counted})) == pytest.approx(2.0)


def test_departures_that_nobody_heard_of_are_added_up() -> None:
    found = results("leaving", sage_inference={"streamed_unheard": 1.0, "waiting_unheard": 2.0})
    rule = promise("caller leaves, not heard")
    assert rule.figure(found) is None
    found.add("queued", OURS, {"unheard": 0.0})
    assert rule.figure(found) == 3.0
    assert not rule.holds(3.0)


def test_a_figure_of_a_column_is_one_that_a_promise_asks_for() -> None:
    """A misspelt key would leave its promise unmeasured for ever."""
    found = Results()
    for scenario in SCENARIOS.values():
        names = (OURS, DIRECT, "sglang-router", "vllm-router", "nginx", "litellm")
        for factor, name in enumerate(names, start=1):
            found.add(scenario.name, name, {column.key: 100.0 * factor for column in scenario.columns})
    assert [p.claim for p in PROMISES if p.figure(found) is None] == []


def test_the_report_says_what_held() -> None:
    found = results("plain", sage_inference={"per_s": 30.0}, sglang_router={"per_s": 10.0})
    found.add("plain", "vllm-router", {"per_s": 20.0})
    table = report.promises(found, PROMISES[:3])
    assert "| plain, requests/s ÷ sglang-router's | 3.00 | ≥ 1.5 | held |" in table
    assert "| plain, requests/s ÷ vllm-router's | 1.50 | ≥ 2.5 | **not held** |" in table
    assert "| plain, CPU a request ÷ sglang-router's | not measured | ≤ 0.66 | – |" in table


def test_a_table_has_medians_and_the_main_figures_spread() -> None:
    found = results("plain", direct={"per_s": 1000.0, "failures": 0.0})
    found.add("plain", "direct", {"per_s": 3000.0, "failures": 0.0})
    table = report.tables(found, [SCENARIOS["plain"]])
    assert table.splitlines()[-1] == "| direct | 2,000 | – | – | – | 0 | – | – | 1,000 to 3,000 |"


def test_a_document_tells_what_is_unknown_from_what_did_not_hold() -> None:
    found = results("plain", sage_inference={"per_s": 10.0}, sglang_router={"per_s": 10.0})
    judged = report.document(found, PROMISES[:2])["promises"]
    assert [(promise["figure"], promise["bound"], promise["held"]) for promise in judged] == [
        (1.0, "≥ 1.5", False),
        (None, "≥ 2.5", None),
    ]
