"""The same jobs under several ways of scheduling, and how far apart they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.fleet import Fleet, llm_fleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.report import Slo, Summary, summarize
from sage_inference.replay.run import Run

INSTANCES = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One way's figures; ``note`` is what else is told of it."""

    name: str
    summary: Summary
    note: str = ""


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
    workload: str
    rows: list[Row] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)

    def at_most(self, what: str, value: float, limit: float) -> None:
        self.bounds.append(Bound(what, value, limit, True))

    def at_least(self, what: str, value: float, limit: float) -> None:
        self.bounds.append(Bound(what, value, limit, False))

    def add(self, name: str, outcomes: Sequence[Outcome], note: str = "") -> Summary:
        summary = summarize(outcomes, Slo())
        self.rows.append(Row(name, summary, note))
        return summary


def play(
    policy: str,
    jobs: Sequence[Job],
    *,
    at_once: bool = False,
    instances: int = INSTANCES,
    prepare: Callable[[Fleet], None] = lambda fleet: None,
) -> list[Outcome]:
    """Engines all alike; ``at_once`` is without late binding: every request goes on to wait in an engine."""
    fleet = llm_fleet(instances, late_binding=not at_once)
    prepare(fleet)
    return Run(policy_named(policy, fleet.clock), fleet).play(jobs)


def share(part: float | None, whole: float | None) -> float:
    """How much of ``whole`` is ``part``; figures of workloads in which something finished."""
    assert part is not None
    assert whole
    return part / whole


def points(better: Summary, than: Summary) -> float:
    """Goodput, in points of percentage."""
    return 100 * (better.goodput - than.goodput)
