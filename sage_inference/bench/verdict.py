"""Judges the figures: the generator may have limited or blurred them, or the server let callers starve."""

from __future__ import annotations

from collections.abc import Mapping

from sage_inference.bench.exchange import Kind
from sage_inference.bench.report import Figures, Own
from sage_inference.bench.samples import LatencySummary
from sage_inference.bench.waits import WaitFigures

BUSY = 0.9  # of a core: above it, requests wait for the generator
NEAR = 0.8  # of the ceiling
BLUR = 0.1  # of the median latency: the generator's delays below it hardly change the figures
LEAST_BLUR_MS = 2.0  # at any latency, because a busy machine's scheduler delays every process as much


def reasons(figures: Figures, own: Own) -> tuple[str, ...]:
    """Reasons to doubt the figures. Empty if the server was the limit."""
    found = []
    if own.cpu >= BUSY:
        found.append(f"it used {own.cpu:.0%} of a core")
    if own.ceiling is not None:
        found += _near("requests", figures.requests_per_s, own.ceiling.requests_per_s)
        found += _near("chunks", figures.chunks_per_s, own.ceiling.chunks_per_s)
    if own.waited:
        found.append(f"{own.waited} requests waited for one of its {own.connections} connections")
    median = figures.e2e.p50 if figures.e2e else 0.0
    found += _blurred("sent 1 % of the requests", own.late, median)
    found += _blurred("saw 1 % of the moments", own.lag, median)
    return tuple(found)


def warnings(total: Figures, kinds: Mapping[Kind, Figures], seconds: float) -> tuple[str, ...]:
    """Sentences about the server: callers that starve, and a measured time too short to see them."""
    found = [_starving(total.waiting)] if total.waiting.starving else []
    for kind, figures in kinds.items():
        median_s = figures.waiting.median_s
        if median_s is not None and median_s > seconds:
            found.append(
                f"half of the {kind} requests waited over {median_s:,.2f} s, and {seconds:,.2f} s were measured: "
                "give a longer --duration"
            )
    return tuple(found)


def _starving(found: WaitFigures) -> str:
    """The warning about starving callers. Percentiles hide them: they send few requests, or none that has a latency."""
    more = [
        f"{count:,} {words}"
        for count, words in (
            (found.throughout, "got nothing during the whole load"),
            (found.unanswered, "got no answer at all"),
        )
        if count
    ]
    waited = "waited over 3 x the median, either half as long as the load or longer, or without an answer"
    return "; ".join([f"starving callers: {found.starving:,} {waited}", *more])


def _near(what: str, reached: float, ceiling: float) -> list[str]:
    if not ceiling or reached < NEAR * ceiling:
        return []
    return [f"{reached:,.0f} {what}/s are near the most that it can, {ceiling:,.0f}"]


def _blurred(what: str, own: LatencySummary | None, median_ms: float) -> list[str]:
    if own is None or own.p99 <= max(LEAST_BLUR_MS, BLUR * median_ms):
        return []
    return [f"it {what} more than {own.p99:.1f} ms late"]
