"""A closed loop of streams on one engine: output, and whether a caller starves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, in_turns, markdown, ratio
from tests.bench.gpu.run import Row, Run, total_of
from tests.bench.gpu.specs import CHAT_MODEL

WAYS: dict[str, dict[str, Any] | None] = {
    "direct": None,
    "hybrid": {"policy": "hybrid"},
    "least_loaded": {"policy": "least_loaded"},
    "at_once": {"policy": "least_loaded", "late_binding": False},
}
WARM_UP_S = 3.0
_AROUND_S = 9.0


def play(run: Run, options: Options) -> None:
    seconds, streams = options.number("window"), options.count("streams")
    for number in range(options.count("rounds")):
        for way in in_turns(options.words("ways"), number):
            key = f"closed/{streams}/{number}/{way}"
            run.step(
                key,
                seconds + _AROUND_S,
                partial(_measure, run, key, way, number, streams, seconds),
            )


def _measure(run: Run, key: str, way: str, number: int, streams: int, seconds: float) -> Row:
    run.engines.settle(("a",))
    options = closed_options(streams, seconds, 1000 + 100 * number + list(WAYS).index(way))
    scheduling = WAYS[way]
    about = {"streams": streams, "round": number, "way": way}
    if scheduling is None:
        return about | total_of(run.load(key, run.engines.url("a"), options, seconds + 40).result())
    with run.door(key, ("a",), scheduling) as door:
        row = total_of(run.load(key, door.url, options, seconds + 40).result())
        return about | row | {"gateway_cpu_s": door.cpu_s(), "record": door.record.name}


def closed_options(
    streams: int, seconds: float, seed: int, warm_up_s: float = WARM_UP_S
) -> dict[str, object]:
    """Prompts of 512 tokens, answers of 128."""
    return {
        "model": CHAT_MODEL,
        "concurrency": streams,
        "input_tokens": 512,
        "output_tokens": 128,
        "ignore_eos": True,
        "duration": seconds,
        "warmup": warm_up_s,
        "seed": seed,
    }


def table(rows: Sequence[Row]) -> list[str]:
    good = [row for row in rows if "error" not in row]
    direct = {(row["streams"], row["round"]): row for row in good if row["way"] == "direct"}
    lines = []
    for row in good:
        base = direct.get((row["streams"], row["round"]), {})
        lines.append(
            [
                row["streams"],
                row["round"],
                row["way"],
                row["output_per_s"],
                ratio(row["output_per_s"], base.get("output_per_s")),
                f"{row['ttft_p50_ms'] or 0:.0f} / {row['ttft_p99_ms'] or 0:.0f}",
                row["tpot_p50_ms"],
                row["longest_wait_ms"],
                ratio(row["longest_wait_ms"], base.get("longest_wait_ms")),
                row["starving"],
            ]
        )
    head = (
        "streams",
        "round",
        "way",
        "output/s",
        "÷ direct (≥ 0.98)",
        "TTFT p50/p99 ms",
        "TPOT p50",
        "longest wait ms",
        "÷ direct (≤ 3)",
        "starving",
    )
    return [*markdown(head, lines), *failed(rows)]


PART = Part(
    "closed",
    "128 streams in a closed loop on one engine, direct and under three rules",
    play,
    table,
    needs=("a",),
    defaults={"rounds": "1", "window": "20", "streams": "128", "ways": "+".join(WAYS)},
)
