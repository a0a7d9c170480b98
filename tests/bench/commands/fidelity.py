"""``fidelity``: whether every vector that passes the gateway is its own text's, bit by bit."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.bench.fidelity import callers, judge
from tests.bench.fidelity.callers import Seen, Sort
from tests.bench.fidelity.tap import Tap
from tests.support.gateway import running_gateway
from tests.support.simulators import simulated_engine

HELP = "vectors of many callers, some of whom leave, against the engine's own: bitwise, and each by its text"
TOLERANCE = 1e-5  # relative, between vectors of a text that were computed in different company


@dataclass(frozen=True, slots=True)
class Engines:
    """Replicas of one model, and the sort of questions they take.

    ``exact``: the same call gives the same bits, whatever else the engine is asked meanwhile.
    """

    urls: tuple[str, ...]
    model: str
    sort: Sort
    exact: bool = True


@contextlib.contextmanager
def _tei() -> Iterator[Engines]:
    """Two, of which one takes fewer texts a call."""
    with simulated_engine("tei", "--speed", "4") as one:
        with simulated_engine("tei", "--speed", "4", "--max-client-batch-size", "8") as other:
            yield Engines((one.url, other.url), one.model, callers.TEI)


@contextlib.contextmanager
def _vllm() -> Iterator[Engines]:
    with simulated_engine("vllm", "--runner", "pooling", "--speed", "4") as one:
        yield Engines((one.url,), one.model, callers.VLLM)


@contextlib.contextmanager
def _real(name: str, sort: Sort, *, exact: bool) -> Iterator[Engines]:
    from tests.bench.merging.real import real_engine

    with real_engine(name) as (url, model, _):
        yield Engines((url,), model, sort, exact)


ENGINES: dict[str, Callable[[], contextlib.AbstractContextManager[Engines]]] = {
    "tei": _tei,
    "vllm": _vllm,
    "real-vllm": lambda: _real("real-vllm", callers.REAL_VLLM, exact=True),
    # It computes the texts of several calls together, padded to the longest of them.
    "real-infinity": lambda: _real("real-infinity", callers.INFINITY, exact=False),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: tei and vllm")
    parser.add_argument("--texts", type=int, default=10_000, help="to be delivered (default: 10000)")
    parser.add_argument("--callers", type=int, default=200, help="at once (default: 200)")
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: argparse.Namespace) -> int:
    good = True
    for name in arguments.engine or ("tei", "vllm"):
        with ENGINES[name]() as engines:
            good = _judged(name, engines, arguments) and good
    return 0 if good else 1


def _judged(name: str, engines: Engines, arguments: argparse.Namespace) -> bool:
    asks = list(callers.plan(engines.sort, engines.model, texts=arguments.texts, seed=arguments.seed))
    with Tap() as tap:
        with running_gateway(*(tap.before(url) for url in engines.urls)) as gateway:
            seen: Seen = tap.run(callers.everyone(gateway.url, tap, asks, arguments.callers))
        calls = list(tap.calls)
    asked = sum(one.answered for one in calls)
    print(
        f"{name}: {arguments.callers} callers, {len(asks)} requests, of which {seen.left} left and "
        f"{len(seen.failed)} failed; {asked} engine calls"
    )
    for failure, times in Counter(seen.failed).items():
        print(f"  {times} × {failure}")
    got = judge.delivered(calls, seen.given)
    print(
        f"  delivered {got.vectors} vectors: {got.swapped} another text's, {got.altered} no engine's; "
        f"{got.alike} texts could not be told from others"
    )
    again = judge.direct(calls)
    print(
        f"  {again.calls} calls of {min(again.shapes)} to {max(again.shapes)} texts made again directly: "
        f"{again.differ} of {again.vectors} vectors differ in a bit, at most by {again.worst:.1e}"
    )
    single = judge.one_by_one(engines.urls[0], seen.given)
    print(
        f"  {single.texts} texts asked for one by one: {single.equal} vectors equal bitwise, "
        f"others within {single.worst:.1e}"
    )
    whole = not (seen.failed or got.swapped or got.altered or got.alike)
    same = again.worst <= (0 if engines.exact else TOLERANCE)
    return whole and got.vectors >= arguments.texts and same and single.worst <= TOLERANCE
