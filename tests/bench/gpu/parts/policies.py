"""Policies side by side: each plays the same window of the same traffic, with a fresh gateway and empty caches."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, in_turns, markdown
from tests.bench.gpu.run import Row, Run, total_of
from tests.bench.gpu.specs import CHAT_MODEL
from tests.bench.gpu.windows import window

ENGINES = ("a", "b")
SLO = "ttft=1000,tpot=50"
POLICIES: dict[str, dict[str, Any]] = {
    "hybrid": {"policy": "hybrid"},
    "least_loaded": {"policy": "least_loaded"},
    "round_robin": {"policy": "round_robin"},
    "at_once": {"policy": "least_loaded", "late_binding": False},  # everything goes to an engine as it comes
}
# Of the trace's own speed, for each GPU that the engines have.
SPEEDS = {"crowd": 0.55, "azure": 5.0, "mooncake": 0.5}
_AROUND_S = 8.0


def play(run: Run, options: Options) -> None:
    seconds, tail = options.number("window"), options.number("tail")
    gpus = min(run.engines.gpus, len(ENGINES))
    for number in range(options.count("rounds")):
        for at, traffic in enumerate(options.words("traffic")):
            speed = options.number("speed") * SPEEDS[traffic] * gpus
            for policy in in_turns(options.words("policies"), number + at):
                key = f"policies/{traffic}/{number}/{policy}"
                run.step(
                    key,
                    seconds + _AROUND_S,
                    partial(_measure, run, key, traffic, policy, speed, seconds, tail, number),
                )


def _measure(
    run: Run, key: str, traffic: str, policy: str, speed: float, seconds: float, tail: float, number: int
) -> Row:
    trace = window(run.traces, traffic, speed, seconds, run.results / "windows")
    run.engines.settle(ENGINES)
    before = [run.engines.metrics(name) for name in ENGINES]
    options = {
        "model": CHAT_MODEL,
        "trace": trace,
        "speedup": speed,
        "ignore_eos": True,
        "slo": SLO,
        # The same arrivals and lengths in other words: a cache that was not emptied helps nobody.
        "seed": 101 + 10 * number + list(POLICIES).index(policy),
    }
    with run.door(key, ENGINES, POLICIES[policy]) as door:
        row = total_of(run.load(key, door.url, options, seconds + tail).result())
        cpu = door.cpu_s()
        record = door.record
    after = [run.engines.metrics(name) for name in ENGINES]
    grown = [
        {name: late.get(name, 0.0) - early.get(name, 0.0) for name in late}
        for early, late in zip(before, after, strict=True)
    ]
    asked = sum(one.get("vllm:prefix_cache_queries_total", 0.0) for one in grown)
    hits = sum(one.get("vllm:prefix_cache_hits_total", 0.0) for one in grown)
    return {
        "traffic": traffic,
        "speed": speed,
        "round": number,
        "policy": policy,
        "hits": hits / asked if asked else None,
        "by_engine": [one.get("vllm:request_success_total") for one in grown],
        "preemptions": sum(one.get("vllm:num_preemptions_total", 0.0) for one in grown),
        "gateway_cpu_s": cpu,
        "record": record.name,
        "slo": SLO,
        **row,
    }


def table(rows: Sequence[Row]) -> list[str]:
    good = [row for row in rows if "error" not in row]
    lines = []
    for row in sorted(
        good, key=lambda row: (row["traffic"], row["round"], list(POLICIES).index(row["policy"]))
    ):
        times = " / ".join(_s(row[f"ttft_{mark}_ms"]) for mark in ("p50", "p90", "p99", "max"))
        tpot = f"{row['tpot_p50_ms'] or 0:.0f} / {row['tpot_p99_ms'] or 0:.0f}"
        lines.append(
            [
                f"{row['traffic']} x {row['speed']:g}",
                row["round"],
                row["policy"],
                row["sent"],
                f"{100 * (row['good_share'] or 0):.1f}",
                times,
                tpot,
                f"{100 * (row['hits'] or 0):.0f}",
                row["output_per_s"],
                row["failed"] + row["abandoned"],
            ]
        )
    head = (
        "traffic",
        "round",
        "policy",
        "n",
        "goodput %",
        "TTFT p50/p90/p99/max s",
        "TPOT p50/p99 ms",
        "hits %",
        "output/s",
        "not answered",
    )
    return [*markdown(head, lines), "", *_order(good), *failed(rows)]


def _s(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds / 1000:.3g}"


def _order(rows: Sequence[Row]) -> list[str]:
    """The policies by the mean of their goodput, by traffic."""
    found = []
    for traffic in dict.fromkeys(row["traffic"] for row in rows):
        means = {
            policy: statistics.mean(values)
            for policy in POLICIES
            if (
                values := [
                    r["good_share"] or 0.0 for r in rows if (r["traffic"], r["policy"]) == (traffic, policy)
                ]
            )
        }
        ordered = sorted(means, key=lambda policy: -means[policy])
        found.append(f"- {traffic}: " + ", ".join(f"{name} {100 * means[name]:.1f} %" for name in ordered))
    return found


PART = Part(
    "policies",
    "hybrid, least_loaded, round_robin and everything at once on the same windows of three traffics",
    play,
    table,
    needs=ENGINES,
    defaults={
        "rounds": "2",
        "window": "25",
        "tail": "14",
        "speed": "1",
        "traffic": "+".join(SPEEDS),
        "policies": "+".join(POLICIES),
    },
)
