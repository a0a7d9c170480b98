"""The figures of a replay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median, median_low

from sage_inference.replay.jobs import Outcome
from sage_inference.replay.slo import ReplaySlo


@dataclass(frozen=True, slots=True)
class Percentiles:
    p50: float | None
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Percentiles:
        ordered = sorted(values)
        return cls(*(percentile(ordered, part) for part in (0.5, 0.9, 0.99)))


def percentile(ordered: Sequence[float], part: float) -> float | None:
    """The smallest of ``ordered`` that ``part`` of them do not exceed (nearest rank). None if it is empty."""
    return ordered[max(0, ceil(part * len(ordered)) - 1)] if ordered else None


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """``goodput`` is the share of requests that met the SLO, ``hit_ratio`` the share of prompt tokens cached."""

    requests: int
    finished: int
    refused: int
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    e2e_ms: Percentiles
    goodput: float
    hit_ratio: float


def usual(summaries: Sequence[ReplaySummary]) -> ReplaySummary:
    """The median of each figure of several replays."""
    return ReplaySummary(
        requests=summaries[0].requests,
        finished=median_low(each.finished for each in summaries),
        refused=median_low(each.refused for each in summaries),
        ttft_ms=_usual([each.ttft_ms for each in summaries]),
        tpot_ms=_usual([each.tpot_ms for each in summaries]),
        e2e_ms=_usual([each.e2e_ms for each in summaries]),
        goodput=median(each.goodput for each in summaries),
        hit_ratio=median(each.hit_ratio for each in summaries),
    )


def _usual(found: Sequence[Percentiles]) -> Percentiles:
    columns = ((each.p50, each.p90, each.p99) for each in found)
    known = ([value for value in column if value is not None] for column in zip(*columns, strict=True))
    return Percentiles(*(median(column) if column else None for column in known))


def summarize(outcomes: Sequence[Outcome], slo: ReplaySlo) -> ReplaySummary:
    prompt = sum(o.job.prompt for o in outcomes if o.first_ms is not None)
    return ReplaySummary(
        requests=len(outcomes),
        finished=sum(o.end_ms is not None for o in outcomes),
        refused=sum(o.refused is not None for o in outcomes),
        ttft_ms=Percentiles.of(o.ttft_ms for o in outcomes if o.ttft_ms is not None),
        tpot_ms=Percentiles.of(o.tpot_ms for o in outcomes if o.tpot_ms is not None),
        e2e_ms=Percentiles.of(o.e2e_ms for o in outcomes if o.e2e_ms is not None),
        goodput=sum(map(slo.kept, outcomes)) / max(1, len(outcomes)),
        hit_ratio=sum(o.cached for o in outcomes) / max(1, prompt),
    )
