"""What a run shows, phase by phase, and what must hold of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sage_inference.bench.samples import nearest_rank
from tests.bench.outage.engines import How
from tests.bench.outage.heard import End, Heard
from tests.bench.outage.scene import VICTIM, Moments, Scene

RETURN_S = 15.0
# As by chance between two runs of a loaded machine; a request that waited for the lost engine would be far beyond.
UNHARMED = 1.25
# Two probes of a hanging engine have to fail: 6 s to the first, 2 s each to their timeouts, 1 s between.
HANG_MS = 11_500.0


@dataclass(frozen=True, slots=True)
class Phase:
    """TTFT of its streams that came whole; NaN where there were none."""

    name: str
    requests: int
    cut: int
    failed: int
    ttft_p50_ms: float
    ttft_p99_ms: float
    ttft_max_ms: float


@dataclass(frozen=True, slots=True)
class Row:
    """A figure that has to be ``limit`` or less."""

    claim: str
    figure: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.figure <= self.limit


def phases(scene: Scene) -> list[Phase]:
    """By when requests were due. A run in which nothing went is one phase."""
    moments = scene.moments
    if moments is None:
        return [_phase("nothing goes", scene.heard)]
    found = [
        _phase("before", scene.due(scene.began, moments.went)),
        _phase("gone, not noticed", scene.due(moments.went, moments.noticed)),
        _phase("gone", scene.due(moments.noticed, moments.healthy)),
        _phase("back", scene.due(moments.healthy, math.inf)),
    ]
    return [phase for phase in found if phase.requests]


def rows(how: How, scene: Scene, reference: Scene | None = None) -> Iterator[Row]:
    """What must hold; figures of time against those of three engines that never fail, where these are given."""
    moments = scene.moments
    assert moments is not None
    cut = scene.which(End.CUT)
    theirs = [one for one in cut if _was_streaming(one, moments)] if how is How.KILL else []
    yield Row("answers that look whole and are not", len(scene.which(End.FALSE)), 0)
    yield Row("requests that failed", len(scene.which(End.FAILED)), 0)
    yield Row("streams cut that were not under way on the lost engine", len(cut) - len(theirs), 0)
    yield Row("streams cut without an error event", sum(b'"error"' not in one.body for one in cut), 0)
    yield Row("answers of other engines broken off", scene.breaks_elsewhere, 0)
    yield Row("left in flight", scene.left_in_flight, 0)
    yield Row("s from its first healthy answer to ready", moments.ready - moments.healthy, RETURN_S)
    yield Row("s from there to its first answer to a caller", moments.answered - moments.healthy, RETURN_S)
    if how is How.HANG:
        gone = scene.due(moments.went - 1, moments.healthy)
        waited = max((one.ttft_ms for one in gone if one.ask.streamed), default=0.0)
        yield Row("ms to the first byte, at most", waited, HANG_MS)
    if reference is not None:
        # What came while a hang was not noticed had to wait; a kill or a drain harms nobody even then.
        start = moments.noticed if how is How.HANG else moments.went
        ours = _p99(scene.due(start, moments.healthy))
        yield Row("TTFT p99 without it over three engines'", ours / _p99(reference.heard), UNHARMED)


def _was_streaming(one: Heard, moments: Moments) -> bool:
    return one.instance == VICTIM and one.due < moments.went and one.ended < moments.went + 1


def _phase(name: str, heard: Sequence[Heard]) -> Phase:
    ends = [one.end for one in heard]
    times = _ttfts(heard)
    p50, p99 = (nearest_rank(times, q) for q in (500, 990)) if times else (math.nan, math.nan)
    return Phase(
        name,
        len(heard),
        ends.count(End.CUT),
        ends.count(End.FAILED) + ends.count(End.FALSE),
        p50,
        p99,
        times[-1] if times else math.nan,
    )


def _ttfts(heard: Sequence[Heard]) -> list[float]:
    return sorted(one.ttft_ms for one in heard if one.ask.streamed and one.end is End.WHOLE)


def _p99(heard: Sequence[Heard]) -> float:
    return nearest_rank(_ttfts(heard), 990)
