"""Embeddings: callers straight at the engine and through the gateway in turn, and single texts beside endless bulk."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, in_turns, markdown, ratio
from tests.bench.gpu.run import Door, Row, Run, total_of
from tests.bench.gpu.specs import EMBEDDING_MODEL

WAYS = ("direct", "gateway")
_AROUND_S = 4.0  # of a load: its start, its warm-up, its last answers


@dataclass(frozen=True, slots=True)
class Callers:
    count: int
    texts: int
    tokens: int
    bound: float  # texts/s through the gateway over direct, at least

    @property
    def name(self) -> str:
        return f"{self.count}x{self.texts}x{self.tokens}"

    def options(self, seconds: float, seed: int) -> dict[str, object]:
        return {
            "embedding_model": EMBEDDING_MODEL,
            "kind": "embeddings",
            "texts": self.texts,
            "input_tokens": self.tokens,
            "concurrency": self.count,
            "duration": seconds,
            "warmup": 1,
            "seed": seed,
        }


CALLERS = (
    Callers(4, 32, 500, 1.0),
    Callers(16, 32, 500, 1.0),
    Callers(32, 8, 100, 1.0),
    Callers(64, 1, 128, 1.1),
)
BULK = Callers(8, 32, 500, 1.0)


def play(run: Run, options: Options) -> None:
    rounds, window, beside = options.count("rounds"), options.number("window"), options.number("beside")
    chosen = [callers for callers in CALLERS if callers.name in options.words("callers")]
    with run.door("embeddings", ["e"]) as door:
        for number in range(rounds):
            for callers in chosen:
                for way in in_turns(WAYS, number):
                    key = f"embeddings/{callers.name}/{number}/{way}"
                    run.step(
                        key,
                        window + _AROUND_S,
                        partial(_closed, run, door, key, callers, way, window, number),
                    )
            if beside:
                for way in in_turns(WAYS, number):
                    key = f"embeddings/interactive/{number}/{way}"
                    run.step(
                        key,
                        beside + 2 * _AROUND_S,
                        partial(_beside, run, door, key, way, beside, number),
                    )


def _url(run: Run, door: Door, way: str) -> str:
    return door.url if way == "gateway" else run.engines.url("e")


def _closed(run: Run, door: Door, key: str, callers: Callers, way: str, window: float, number: int) -> Row:
    before, cpu = run.engines.metrics("e"), door.cpu_s()
    seed = 100 * number + (41 if way == "direct" else 77)
    load = run.load(key, _url(run, door, way), callers.options(window, seed), window + 30)
    row = total_of(load.result())
    after = run.engines.metrics("e")
    calls = after.get("vllm:request_success_total", 0) - before.get("vllm:request_success_total", 0)
    return {
        "callers": callers.name,
        "round": number,
        "way": way,
        "texts_per_s": row["requests_per_s"] * callers.texts,
        "engine_texts": calls,
        "gateway_cpu_s": door.cpu_s() - cpu,
        **row,
    }


def _beside(run: Run, door: Door, key: str, way: str, seconds: float, number: int) -> Row:
    """Texts that somebody waits for, by the clock, while callers send bulk without end."""
    url = _url(run, door, way)
    bulk = run.load(f"{key}-bulk", url, BULK.options(seconds + 2, 7 + number), seconds + 40)
    single = {
        "embedding_model": EMBEDDING_MODEL,
        "kind": "embeddings",
        "texts": 1,
        "input_tokens": 20,
        "rate": 20,
        "duration": seconds,
        "warmup": 2,
        "seed": 3 + number,
    }
    try:
        row = total_of(run.load(key, url, single, seconds + 40).result())
        bulk_row = total_of(bulk.result())
    finally:
        bulk.kill()
    return {
        "callers": "interactive",
        "round": number,
        "way": way,
        "bulk_texts_per_s": bulk_row["requests_per_s"] * BULK.texts,
        **row,
    }


def table(rows: Sequence[Row]) -> list[str]:
    lines = []
    for callers in CALLERS:
        found = _by_way(rows, callers.name, "texts_per_s")
        gain = _ratio(found)
        held = (
            "-"
            if gain is None
            else "held"
            if gain >= (0.97 if callers.bound == 1.0 else callers.bound)
            else "MISSED"
        )
        waits = _by_way(rows, callers.name, "e2e_p50_ms")
        cells = [_list(found[way]) for way in WAYS] + [_list(waits[way]) for way in WAYS]
        lines.append([callers.name, *cells, gain, f"≥ {callers.bound}", held])
    head = (
        "callers × texts × tokens",
        "direct texts/s",
        "gateway",
        "p50 ms direct",
        "gateway",
        "ratio of medians",
        "",
        "",
    )
    found = _by_way(rows, "interactive", "e2e_p99_ms")
    bulk = _by_way(rows, "interactive", "bulk_texts_per_s")
    share = _ratio(found)
    beside = (
        f"Interactive p99 beside bulk ({BULK.name}): direct {_list(found['direct'])} ms, gateway "
        f"{_list(found['gateway'])} ms: ratio {'-' if share is None else f'{share:.2f}'} (≤ 0.35); bulk "
        f"{_list(bulk['direct'])} and {_list(bulk['gateway'])} texts/s."
    )
    return [*markdown(head, lines), "", beside, *failed(rows)]


def _by_way(rows: Sequence[Row], callers: str, figure: str) -> Mapping[str, list[float]]:
    return {
        way: [
            row[figure]
            for row in rows
            if (row.get("callers"), row.get("way")) == (callers, way) and row.get(figure) is not None
        ]
        for way in WAYS
    }


def _ratio(found: Mapping[str, list[float]]) -> float | None:
    middle = {way: statistics.median(values) if values else None for way, values in found.items()}
    return ratio(middle["gateway"], middle["direct"])


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:,.0f}" for value in values) or "-"


PART = Part(
    "embeddings",
    "bulk and single texts, direct and through the gateway in turn; single texts beside endless bulk",
    play,
    table,
    needs=("e",),
    cap_s=330,
    defaults={
        "rounds": "3",
        "window": "5",
        "beside": "8",
        "callers": "+".join(callers.name for callers in CALLERS),
    },
)
