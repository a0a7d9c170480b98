"""What merging must show, each as figures of one run against the same engine."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.bench.machine import OthersWatch
from tests.bench.merging import load
from tests.bench.merging.load import Measured
from tests.support.gateway import running_gateway
from tests.support.simulators import SimulatedEngine, simulated_engine

UNMERGED: dict[str, Any] = {"enable_embedding_batching": False}
FIXED_WINDOW: dict[str, Any] = {"min_embedding_batch_size": 32, "max_embedding_wait_ms": 50}
ENGINES = {
    "serial": ("tei", "--serial"),
    "tei": ("tei",),
    "vllm": ("vllm", "--runner", "pooling"),
}


def _mixed(rng: random.Random) -> int:
    """As what people write is: half of it short, a few long."""
    return min(150, max(5, int(rng.lognormvariate(3.0, 0.9))))


@dataclass(frozen=True, slots=True)
class Texts:
    """How many words they have, of which each is a token of the model and two more frame them.

    ``gain`` is the bound by engine: what merging must bring, or at least not cost.
    """

    words: load.Words
    gain: dict[str, float]
    a_call: float = 8.0


REAL_TEXTS = {
    "8 words": Texts(lambda _: 8, {"real-infinity": 1.3, "real-vllm": 1.3}),  # a search query
    "20 words": Texts(lambda _: 20, {"real-infinity": 1.0, "real-vllm": 0.9}),
    "40 words": Texts(lambda _: 40, {"real-infinity": 1.0, "real-vllm": 0.9}),  # a paragraph
    # vLLM does not pad. Where an engine does, few texts have company of their length.
    "5 to 150 words": Texts(_mixed, {"real-infinity": 1.3, "real-vllm": 0.9}, 4.0),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, the bound it has to keep, and whether it does (``least``: the bound is a lower one)."""

    claim: str
    figure: float
    bound: float
    least: bool = True
    about: str = ""

    @property
    def holds(self) -> bool:
        return self.figure >= self.bound if self.least else self.figure <= self.bound


@contextmanager
def engine(name: str, *more: str) -> Iterator[SimulatedEngine]:
    kind, *options = ENGINES[name]
    with simulated_engine(kind, *options, *more) as running:
        yield running


@contextmanager
def gateway(url: str, *, plain: str = "", **scheduling: Any) -> Iterator[str]:
    """``plain``: the model of an engine of which the gateway is told no more than that."""
    about = {"url": url} | ({"engine": "openai", "kind": "embedding", "model": plain} if plain else {})
    with running_gateway(config={"scheduling": scheduling, "instances": [about]}) as running:
        yield running.url


def many_callers(name: str, url: str, model: str, calls: Callable[[], int], seconds: float) -> list[Row]:
    """64 callers with one text each, in closed loops: straight to the engine, and through the gateway."""
    with gateway(url) as door:
        sides = _both_ways(url, door, model, calls, seconds)
    return sides.rows(name, bound={"serial": 2.0}.get(name, 1.0))


def real_callers(name: str, url: str, model: str, calls: Callable[[], int], seconds: float) -> list[Row]:
    """The same on a real engine, over lengths of text: the longer it is, the less an HTTP request counts."""
    rows = []
    with gateway(url) as door:
        load.closed(url, model, callers=64, seconds=2)  # it still warms up with its first calls
        for about, texts in REAL_TEXTS.items():
            sides = _both_ways(url, door, model, calls, seconds, words=texts.words, numbered=False)
            rows += sides.rows(f"{name}, {about}", bound=texts.gain[name], a_call=texts.a_call)
    return rows


@dataclass(slots=True)
class _Sides:
    """The rounds of a comparison: straight to the engine, and through the gateway."""

    direct: list[Measured] = field(default_factory=list)
    merged: list[Measured] = field(default_factory=list)
    direct_calls: int = 0
    merged_calls: int = 0
    others: float = 0.0

    def rows(self, name: str, *, bound: float, a_call: float = 8.0) -> list[Row]:
        merged, direct = ([m.texts_per_s for m in side] for side in (self.merged, self.direct))
        failed = sum(m.failed for m in (*self.merged, *self.direct))
        rates = f"{_spread(merged)} texts/s against {_spread(direct)}; {failed} failed"
        texts = sum(m.texts for m in self.merged)
        return [
            Row(
                f"{name}: texts/s of 64 callers over direct",
                statistics.median(merged) / statistics.median(direct),
                bound,
                about=f"{rates}; others took {self.others:.2f} cores",
            ),
            Row(
                f"{name}: texts an engine call",
                texts / max(1, self.merged_calls),
                a_call,
                about=f"{self.merged_calls} calls, {self.direct_calls} direct",
            ),
        ]


def _both_ways(
    url: str,
    door: str,
    model: str,
    calls: Callable[[], int],
    seconds: float,
    *,
    words: load.Words = load.twelve,
    numbered: bool = True,
) -> _Sides:
    """Rounds in turn, so that what else the machine does befalls both sides."""
    sides = _Sides()
    watch = OthersWatch()
    for seed in range(3):

        def run(to: str, seed: int = seed) -> Measured:
            return load.closed(
                to, model, callers=64, seconds=seconds, words=words, numbered=numbered, seed=seed
            )

        before = calls()
        sides.direct.append(run(url))
        between = calls()
        sides.merged.append(run(door))
        sides.direct_calls += between - before
        sides.merged_calls += calls() - between
    sides.others = watch.cores()
    return sides


def _spread(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def one_caller(seconds: float) -> list[Row]:
    """One caller alone: what the gateway adds."""
    with engine("tei") as tei, gateway(tei.url) as door:
        added = []
        for round_ in range(3):
            direct = load.closed(tei.url, tei.model, callers=1, seconds=seconds, seed=round_)
            merged = load.closed(door, tei.model, callers=1, seconds=seconds, seed=round_)
            added.append(merged.ms(0.5) - direct.ms(0.5))
    return [Row("one caller: added p50, ms", statistics.median(added), 0.3, least=False)]


def light_load(seconds: float) -> list[Row]:
    """5 % of what the engine can do: merging must not be felt."""
    kinds = {"all": (1.0, 1, 12)}
    p50: dict[str, list[float]] = {"merged": [], "unmerged": [], "window": []}
    with engine("serial") as tei, gateway(tei.url) as merged, gateway(tei.url, **UNMERGED) as unmerged:
        with gateway(tei.url, **FIXED_WINDOW) as window:
            for round_ in range(3):
                for name, url in (("merged", merged), ("unmerged", unmerged), ("window", window)):
                    run = load.opened(url, tei.model, per_s=40, seconds=seconds, kinds=kinds, seed=round_)
                    p50[name].append(run.ms(0.5))
    middle = {name: statistics.median(values) for name, values in p50.items()}
    added = middle["merged"] - middle["unmerged"]
    about = (
        f"merged {middle['merged']:.2f}, not merged {middle['unmerged']:.2f}, "
        f"fixed 50 ms {middle['window']:.2f}"
    )
    return [Row("5 % load: added p50 over no merging, ms", added, 0.5, least=False, about=about)]


def bulk_and_interactive(name: str, seconds: float) -> list[Row]:
    """70 % of the texts in bulk, at 85 % of what the engine can do; bulk callers cut for the engine themselves."""
    # Requests of one text and of 256: of 1,000 requests, 9 in bulk make 70 % of the texts.
    kinds = {"interactive": (0.991, 1, 60), "bulk": (0.009, 256, 60)}
    texts = sum(share * count for share, count, _ in kinds.values())
    # No limit on waiting texts: the engine would refuse what comes straight to it.
    with engine(name, "--speed", "0.25", "--max-concurrent-requests", "100000") as tei:
        full = load.opened(
            tei.url, tei.model, per_s=4000 / texts, seconds=1.5, kinds=kinds, most_texts=32, seed=9
        )
        per_s = 0.85 * full.texts_per_s / texts
        with gateway(tei.url, plain=tei.model if name == "serial" else "") as door:
            merged = load.opened(door, tei.model, per_s=per_s, seconds=seconds, kinds=kinds)
        unmerged = load.opened(tei.url, tei.model, per_s=per_s, seconds=seconds, kinds=kinds, most_texts=32)
    ours, theirs = merged.ms(0.99, "interactive"), unmerged.ms(0.99, "interactive")
    claim = f"{name}, bulk at 85 %"
    rates = f"{merged.texts_per_s:,.0f} texts/s against {unmerged.texts_per_s:,.0f}"
    failed = f"{merged.failed} failed against {unmerged.failed}"
    return [
        Row(
            f"{claim}: interactive p99 over no merging",
            ours / theirs,
            0.35,
            False,
            f"{ours:.0f} ms against {theirs:.0f}; {failed}",
        ),
        Row(
            f"{claim}: throughput over no merging",
            merged.texts_per_s / unmerged.texts_per_s,
            0.97,
            about=rates,
        ),
    ]
