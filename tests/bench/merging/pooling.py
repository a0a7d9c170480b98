"""Bulk requests to a vLLM pooling engine, whose front end works on one call at a time beside its GPU."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.merging import load
from tests.bench.merging.load import Measured
from tests.bench.merging.scenarios import Row, engine, gateway

# A simulator that runs at half of its speed is the limit of both sides, even where others use the processor.
SPEED = 0.5
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """Callers in closed loops, the texts of a request, and the words of a text. ``bound``: of the direct rate."""

    name: str
    callers: int
    texts: int
    words: int
    bound: float


SHAPES = [
    Shape("4 callers x 32 texts x 500 tokens", 4, 32, 405, 0.97),
    Shape("16 callers x 32 texts x 500 tokens", 16, 32, 405, 0.97),
    Shape("16 callers x 20 texts x 300 tokens", 16, 20, 242, 0.97),
    Shape("32 callers x 8 texts x 100 tokens", 32, 8, 78, 1.0),
    Shape("64 callers x 1 text x 128 tokens", 64, 1, 101, 1.1),
]


def bulk_shapes(seconds: float) -> list[Row]:
    """Texts a second through the gateway over direct, in rounds that take turns."""
    rows = []
    with engine("vllm", "--speed", str(SPEED)) as vllm, gateway(vllm.url) as door:
        for shape in SHAPES:
            direct: list[Measured] = []
            ours: list[Measured] = []
            for seed in range(ROUNDS):

                def run(url: str, shape: Shape = shape, seed: int = seed) -> Measured:
                    return load.closed(
                        url,
                        vllm.model,
                        callers=shape.callers,
                        texts=shape.texts,
                        words=lambda _: shape.words,
                        seconds=seconds,
                        seed=seed,
                    )

                for side, url in (
                    ((direct, vllm.url), (ours, door))
                    if seed % 2 == 0
                    else ((ours, door), (direct, vllm.url))
                ):
                    side.append(run(url))
            rates = [sum(each.texts_per_s for each in side) / (SPEED * ROUNDS) for side in (ours, direct)]
            failed = sum(each.failed for each in (*ours, *direct))
            rows.append(
                Row(
                    f"vllm, {shape.name}: texts/s over direct",
                    rates[0] / rates[1],
                    shape.bound,
                    about=f"{rates[0]:,.0f} against {rates[1]:,.0f} at the engine's speed; {failed} failed",
                )
            )
    return rows


def beside_bulk(seconds: float) -> list[Row]:
    """A short text now and then, beside 16 bulk callers without end."""
    with engine("vllm", "--speed", str(SPEED)) as vllm, gateway(vllm.url) as door:
        (direct_bulk, direct), (bulk, ours) = (
            load.beside_bulk(
                url, vllm.model, callers=16, texts=32, words=405, per_s=10 * SPEED, seconds=seconds
            )
            for url in (vllm.url, door)
        )
    p99 = [SPEED * each.ms(0.99, "interactive") for each in (ours, direct)]
    rates = [each.texts_per_s / SPEED for each in (bulk, direct_bulk)]
    return [
        Row(
            "vllm, beside endless bulk: interactive p99 over direct",
            p99[0] / p99[1],
            0.35,
            False,
            f"{p99[0]:.0f} ms against {p99[1]:.0f} at the engine's speed",
        ),
        Row(
            "vllm, beside endless bulk: bulk texts/s over direct",
            rates[0] / rates[1],
            0.8,  # the price of two calls in flight, see ``learned_window``
            about=f"{rates[0]:,.0f} against {rates[1]:,.0f}",
        ),
    ]
