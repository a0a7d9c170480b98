"""The plan of a measurement, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field

from sage_inference.bench.exchange import Kind
from sage_inference.bench.slo import SloLimits
from sage_inference.bench.target import Target
from sage_inference.bench.trace import TraceRow
from sage_inference.bench.workload import WorkloadShape


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed loop with ``concurrency`` requests under way."""

    concurrency: int


@dataclass(frozen=True, slots=True)
class Open:
    """An open loop with Poisson arrivals, ``rate`` a second."""

    rate: float


@dataclass(frozen=True, slots=True)
class Replay:
    """The arrivals and lengths of a trace, ``speedup`` times as fast."""

    rows: list[TraceRow] = field(repr=False)
    speedup: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A measurement. ``requests`` or ``duration_s`` ends it. A replay may also end with its trace."""

    target: Target
    models: dict[Kind, str]
    shape: WorkloadShape
    load: Closed | Open | Replay
    duration_s: float | None = None
    requests: int | None = None
    warmup_s: float = 0.0
    timeout_s: float = 600.0
    slo: SloLimits = field(default_factory=SloLimits)
    ceiling: bool = True
