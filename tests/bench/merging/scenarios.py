"""What merging must show, each as figures of one run against the same engine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.bench.merging import load
from tests.support.gateway import running_gateway
from tests.support.simulators import SimulatedEngine, simulated_engine

UNMERGED: dict[str, Any] = {"enable_embedding_batching": False}
FIXED_WINDOW: dict[str, Any] = {"min_embedding_batch_size": 32, "max_embedding_wait_ms": 50}
ENGINES = {
    "serial": ("tei", "--serial"),
    "tei": ("tei",),
    "vllm": ("vllm", "--runner", "pooling"),
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
    direct, merged = [], []
    direct_calls = merged_calls = 0
    with gateway(url) as door:
        for round_ in range(3):
            before = calls()
            direct.append(load.closed(url, model, callers=64, seconds=seconds, seed=round_))
            between = calls()
            merged.append(load.closed(door, model, callers=64, seconds=seconds, seed=round_))
            direct_calls += between - before
            merged_calls += calls() - between
    rate, base = (statistics.median(m.texts_per_s for m in side) for side in (merged, direct))
    failed = sum(m.failed for m in (*direct, *merged))
    about = f"{rate:,.0f} texts/s against {base:,.0f}; {failed} failed"
    bound = {"serial": 2.0, "real": 1.3}.get(name, 1.0)
    a_call = sum(m.texts for m in merged) / max(1, merged_calls)
    return [
        Row(f"{name}: texts/s of 64 callers over direct", rate / base, bound, about=about),
        Row(
            f"{name}: texts an engine call", a_call, 8.0, about=f"{merged_calls} calls, {direct_calls} direct"
        ),
    ]


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
