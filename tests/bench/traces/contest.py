"""The same jobs under several ways of scheduling, and how far apart they end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.fleet import ModelledFleet, llm_fleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.report import Percentiles, ReplaySummary, summarize
from sage_inference.replay.run import Run
from sage_inference.replay.slo import ReplaySlo
from tests.bench.traces.baselines import BASELINES

INSTANCES = 4
BETTER = 0.5  # points of goodput


@dataclass(frozen=True, slots=True)
class Row:
    """One way's figures. ``at`` names the variant of the workload, where there are several; ``note`` has other figures."""

    name: str
    summary: ReplaySummary
    note: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True)
class Bound:
    """What must hold of the rows, and what does."""

    what: str
    value: float
    limit: float
    at_most: bool

    @property
    def held(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass(slots=True)
class Result:
    """``others`` adds the rows of other routers' rules; nothing is played for them until then."""

    workload: str
    rows: list[Row] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    _others: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def at_most(self, what: str, value: float, limit: float) -> None:
        self.bounds.append(Bound(what, value, limit, True))

    def at_least(self, what: str, value: float, limit: float) -> None:
        self.bounds.append(Bound(what, value, limit, False))

    def add(self, name: str, outcomes: Sequence[Outcome], note: str = "", at: str = "") -> ReplaySummary:
        summary = summarize(outcomes, ReplaySlo())
        self.rows.append(Row(name, summary, note, at))
        return summary

    def beside_others(self, ours: ReplaySummary, jobs: Sequence[Job], *, at: str = "", **how: Any) -> None:
        """Other routers' rules get the same jobs; none of them may be better than ours by over ``BETTER`` points."""

        def compare() -> None:
            best = max(
                self.add(name, play(name, jobs, at_once=True, **how), at=at).goodput for name in BASELINES
            )
            what = "hybrid goodput over the best of other routers' rules, points"
            self.at_least(f"{at}: {what}" if at else what, 100 * (ours.goodput - best), -BETTER)

        self._others.append(compare)

    def play_others(self) -> None:
        while self._others:
            self._others.pop(0)()


def play(
    policy: str,
    jobs: Sequence[Job],
    *,
    at_once: bool = False,
    instances: int = INSTANCES,
    prepare: Callable[[ModelledFleet], None] = lambda fleet: None,
) -> list[Outcome]:
    """Engines all alike; ``at_once`` is without late binding: every request goes on to wait in an engine.

    ``policy`` is one of ours or one of ``BASELINES``.
    """
    fleet = llm_fleet(instances, late_binding=not at_once)
    prepare(fleet)
    rule = BASELINES.get(policy)
    if rule is None:
        return Run(policy_named(policy, fleet.clock), fleet).play(jobs)
    run = Run(policy_named("least_loaded", fleet.clock), fleet)
    run.scheduler.use(rule(run))
    return run.play(jobs)


def waits_ms(outcomes: Iterable[Outcome]) -> Percentiles:
    """Times to the first token; one that was never answered waited for ever."""
    return Percentiles.of(math.inf if o.ttft_ms is None else o.ttft_ms for o in outcomes)


def longest_s(outcomes: Iterable[Outcome]) -> float:
    """The longest time to a first token."""
    return max(math.inf if o.ttft_ms is None else o.ttft_ms / 1000 for o in outcomes)


def share(part: float | None, whole: float | None) -> float:
    """How much of ``whole`` is ``part``; figures of workloads in which something finished."""
    assert part is not None
    assert whole
    return part / whole


def points(better: ReplaySummary, than: ReplaySummary) -> float:
    """Goodput, in points of percentage."""
    return 100 * (better.goodput - than.goodput)
