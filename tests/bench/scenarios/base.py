"""What a scenario is: a way to measure one target, and the columns that its figures are shown in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.bench.bench import Bench
from tests.bench.targets.base import Kind, Target

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Column:
    """``key`` in the figures; ``digits`` after the point."""

    key: str
    title: str
    digits: int = 0


@dataclass(frozen=True)
class Scenario:
    """The first column is the main figure, whose spread is told.

    ``who``: peers and direct access may have no such figure. ``once``: one round is all. ``fresh``: each
    measurement gets a target that was just started.
    """

    name: str
    title: str
    engine: Kind
    columns: tuple[Column, ...]
    measure: Callable[[Bench, Target, float], Figures]
    who: Literal["all", "gateways", "ours"] = "all"
    once: bool = False
    fresh: bool = False


def used(target: Target, kind: Kind, cpu_s: float, pieces: float | None, seconds: float) -> Figures:
    """CPU time a piece of work, and how busy the gateway's core was with it; nothing of direct access."""
    if kind not in target.pids or not pieces:
        return {}
    return {"cpu_us": cpu_s / pieces * 1e6, "core_pct": 100 * cpu_s / seconds}
