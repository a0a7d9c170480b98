"""The time that the gateway adds: the same closed loops straight at an engine and through the gateway, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, in_turns, markdown
from tests.bench.gpu.parts.closed import closed_options
from tests.bench.gpu.run import Door, Row, Run, total_of

WAYS = ("direct", "gateway")
_AROUND_S = 5.0


def play(run: Run, options: Options) -> None:
    seconds = options.number("window")
    with run.door("overhead", ("a",)) as door:
        for number in range(options.count("rounds")):
            for streams in map(int, options.words("streams")):
                for way in in_turns(WAYS, number):
                    key = f"overhead/{streams}/{number}/{way}"
                    run.step(
                        key,
                        seconds + _AROUND_S,
                        partial(_measure, run, door, key, way, number, streams, seconds),
                    )


def _measure(run: Run, door: Door, key: str, way: str, number: int, streams: int, seconds: float) -> Row:
    url = door.url if way == "gateway" else run.engines.url("a")
    options = closed_options(streams, seconds, 10 * number + streams + (5000 if way == "direct" else 0), 2)
    cpu = door.cpu_s()
    row = total_of(run.load(key, url, options, seconds + 40).result())
    return {"streams": streams, "round": number, "way": way, "gateway_cpu_s": door.cpu_s() - cpu, **row}


def table(rows: Sequence[Row]) -> list[str]:
    names = ("streams", "round", "way", "ttft_p50_ms", "tpot_p50_ms", "output_per_s", "gateway_cpu_s")
    head = ("streams", "round", "way", "TTFT p50 ms", "TPOT p50 ms", "output/s", "gateway CPU s")
    lines = [[row.get(name) for name in names] for row in rows if "error" not in row]
    return [*markdown(head, lines), *failed(rows)]


PART = Part(
    "overhead",
    "1, 32 and 128 streams, direct and through the gateway",
    play,
    table,
    needs=("a",),
    defaults={"rounds": "2", "window": "6", "streams": "1+32+128"},
)
