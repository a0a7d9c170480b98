"""``merging``: what merging embedding requests gains and costs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from tests.bench.merging import pooling, scenarios
from tests.bench.merging.scenarios import Row

HELP = "merged embedding calls against direct access and against no merging"


def _many(name: str, seconds: float) -> list[Row]:
    with scenarios.engine(name) as engine:
        return scenarios.many_callers(
            name, engine.url, engine.model, lambda: int(engine.stats()["calls"]), seconds
        )


def _real(name: str, seconds: float) -> list[Row]:
    from tests.bench.merging.real import real_engine

    with real_engine(name) as (url, model, calls):
        return scenarios.real_callers(name, url, model, calls, seconds)


SCENARIOS: dict[str, Callable[[float], list[Row]]] = {
    "serial": lambda seconds: _many("serial", seconds),
    "tei": lambda seconds: _many("tei", seconds),
    "vllm": lambda seconds: _many("vllm", seconds),
    "one": scenarios.one_caller,
    "light": scenarios.light_load,
    "bulk-serial": lambda seconds: scenarios.bulk_and_interactive("serial", 4 * seconds),
    "bulk-tei": lambda seconds: scenarios.bulk_and_interactive("tei", 4 * seconds),
    "vllm-bulk": lambda seconds: pooling.bulk_shapes(2 * seconds),
    "vllm-beside": lambda seconds: pooling.beside_bulk(6 * seconds),
    "real-vllm": lambda seconds: _real("real-vllm", seconds),
    "real-infinity": lambda seconds: _real("real-infinity", seconds),
}
SIMULATED = [name for name in SCENARIOS if not name.startswith("real")]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="default: all but the real ones"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement; default 3")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    rows = []
    for name in arguments.scenario or SIMULATED:
        for row in SCENARIOS[name](arguments.seconds):
            rows.append(row)
            if not arguments.json:
                sign = "≥" if row.least else "≤"
                held = "held" if row.holds else "NOT HELD"
                print(f"| {row.claim} | {row.figure:.2f} | {sign} {row.bound:g} | {held} | {row.about} |")
    if arguments.json:
        print(json.dumps([{**{k: getattr(r, k) for k in r.__slots__}, "holds": r.holds} for r in rows]))
    return 0 if all(row.holds for row in rows) else 1
