"""The run as Markdown or JSON: the figures of each scenario, and what was promised of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.bench.promises import Promise
from tests.bench.results import Results
from tests.bench.scenarios.base import Column, Scenario

WATCHED = (
    Column("others_gateway_core_pct", "others on core 0 %"),
    Column("others_load_core_pct", "on core 1 %"),
)


def tables(results: Results, scenarios: Iterable[Scenario]) -> str:
    return "\n\n".join(_table(results, scenario) for scenario in scenarios)


def promises(results: Results, promised: Iterable[Promise]) -> str:
    """One row a promise: the figure, its bound, and whether it held."""
    rows = []
    for promise in promised:
        figure = promise.figure(results)
        told = "not measured" if figure is None else f"{figure:,.{promise.digits}f}"
        held = "–" if figure is None else "held" if promise.holds(figure) else "**not held**"
        rows.append([promise.claim, told, promise.bound_text(), held])
    return "### what must hold\n\n" + _markdown(["", "figure", "bound", ""], rows)


def document(results: Results, promised: Iterable[Promise]) -> dict[str, Any]:
    """Every round of everything, and what was promised of it."""
    judged = []
    for promise in promised:
        figure = promise.figure(results)
        held = None if figure is None else promise.holds(figure)
        judged.append({"claim": promise.claim, "figure": figure, "bound": promise.bound_text(), "held": held})
    return {"schema": 1, "scenarios": results.rounds(), "promises": judged}


def _table(results: Results, scenario: Scenario) -> str:
    columns = (*scenario.columns, *WATCHED)
    main = scenario.columns[0]
    rows = []
    for target in results.targets(scenario.name):
        values = [number(results.median(scenario.name, target, c.key), c.digits) for c in columns]
        span = results.spread(scenario.name, target, main.key)
        values.append(
            "–" if span is None else f"{number(span[0], main.digits)} to {number(span[1], main.digits)}"
        )
        rows.append([target, *values])
    heads = ["", *(column.title for column in columns), f"spread of {main.title}"]
    return f"### {scenario.name}: {scenario.title}\n\n" + _markdown(heads, rows)


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
