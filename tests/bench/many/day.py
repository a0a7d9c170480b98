"""A day of requests before a fleet whose size follows demand, or stays, or is known ahead."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import ceil

from sage_inference.config.settings import SloSettings
from sage_inference.control_plane.demand import DemandLaw
from sage_inference.control_plane.demand_gauge import DemandGauge
from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.fleet import ModelledFleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.run import Run
from sage_inference.replay.slo import ReplaySlo
from sage_inference.types import EngineState, ExecutionInstance
from tests.bench.many.gateways import POLICY
from tests.bench.traces import workloads

HOUR_MS, DAY_H = 3_600_000.0, 24
# Of Azure's hour, the part that comes in each hour of the day: an office's day, made up.
HOURS = (
    *(0.25, 0.20, 0.17, 0.15, 0.15, 0.18, 0.25, 0.40, 0.65, 0.85, 0.95, 1.00),
    *(0.90, 0.92, 1.00, 0.98, 0.90, 0.75, 0.60, 0.50, 0.45, 0.40, 0.35, 0.30),
)
SLOWER = 10.0  # than the usual engine: one as a 70B model has, of which an office needs several
SLO = SloSettings(ttft_ms=5000, tpot_ms=200)
LEAST, MOST = 1, 6
PER_REPLICA = (
    1.6  # requests a second of a trace hour; found by hand as what keeps the goodput of a fleet that follows
)
TICK_MS = 1000.0
QUARTER_MS = HOUR_MS / 4


def a_day(hours: Sequence[int] = range(DAY_H)) -> list[Job]:
    """Azure's hour once for each of the hours, thinned to the hour's part."""
    trace = workloads.azure(1)
    stretch = HOUR_MS / (trace[-1].at_ms + 1.0)
    rng = random.Random(12)
    return [
        Job(HOUR_MS * number + stretch * job.at_ms, job.prompt, job.output)
        for number, hour in enumerate(hours)
        for job in trace
        if rng.random() < HOURS[hour]
    ]


@dataclass(slots=True)
class Played:
    """One fleet's day. ``changes`` are times in seconds, the replicas wanted from then on, and the reasons."""

    outcomes: list[Outcome] = field(default_factory=list)
    gpu_hours: float = 0.0
    changes: list[tuple[float, int, str]] = field(default_factory=list)


class DayFleet:
    """Replicas that start and leave. A start takes ``start_s``, and its GPU is taken from the order on."""

    def __init__(self, replicas: int, start_s: float) -> None:
        self.fleet = ModelledFleet()
        self.start_s = start_s
        self.played = Played()
        self._wanted = 0
        self._since: dict[ExecutionInstance, float] = {}
        for _ in range(replicas):
            self._create()
        slo = ReplaySlo(SLO)
        self.run = Run(policy_named(POLICY, self.fleet.clock), self.fleet, slo=slo)
        self._wanted = replicas

    @property
    def instances(self) -> list[ExecutionInstance]:
        return list(self.run.scheduler.registry.instances.values())

    def scale(self, replicas: int, reason: str) -> None:
        events = self.fleet.events
        self.played.changes.append((events.now / 1000, replicas, reason))
        for _ in range(replicas - self._wanted):
            events.at(events.now + self.start_s * 1000, partial(self._join, events.now))
        for _ in range(self._wanted - replicas):
            self._leave()
        self._wanted = replicas

    def play(self, jobs: Sequence[Job]) -> Played:
        self.played.outcomes = self.run.play(jobs)
        for instance in list(self._since):
            self._gone(instance, jobs[-1].at_ms)
        return self.played

    def _create(self) -> ExecutionInstance:
        self.fleet.add_llm()
        self.fleet.gpus[-1].slow_down(SLOWER)
        instance = self.fleet.instances[-1]
        self._since[instance] = self.fleet.events.now
        return instance

    def _join(self, ordered_ms: float) -> None:
        instance = self._create()
        self._since[instance] = ordered_ms
        self.run.scheduler.registry.add(instance)
        self.run.scheduler.dispatch()

    def _leave(self) -> None:
        """The replica with the least work leaves, as soon as its work is done."""
        serving = [i for i in self.instances if i.state is EngineState.READY]
        instance = min(serving, key=lambda i: i.active_requests)
        instance.state = EngineState.DRAINING
        self.run.scheduler.registry.changed()
        self._end(instance)

    def _end(self, instance: ExecutionInstance) -> None:
        events = self.fleet.events
        if instance.active_requests:
            events.at(events.now + TICK_MS, lambda: self._end(instance))
            return
        self.run.scheduler.registry.remove(instance.instance_id)
        self._gone(instance, events.now)

    def _gone(self, instance: ExecutionInstance, now_ms: float) -> None:
        since = self._since.pop(instance)
        self.played.gpu_hours += max(0.0, now_ms - since) / HOUR_MS


def play_fixed(jobs: Sequence[Job], replicas: int) -> Played:
    return DayFleet(replicas, 0.0).play(jobs)


def play_by_demand(jobs: Sequence[Job], start_s: float, least: int = LEAST) -> Played:
    """The law decides once a second, from what the gateway sees."""
    day = DayFleet(max(1, least), start_s)
    law, gauge, events = DemandLaw(least, MOST), DemandGauge(), day.fleet.events
    unserved = 0

    def count(outcome: Outcome) -> None:
        nonlocal unserved
        unserved += outcome.refused is not None and outcome.placed_ms is None

    day.run.ended = count

    def tick() -> None:
        nonlocal unserved
        now = events.now / 1000
        serving = [i for i in day.instances if i.state is EngineState.READY]
        target = law.see(now, gauge.read(now, serving, day.run.scheduler.waiting(), unserved))
        unserved = 0
        if target is not None:
            day.scale(target.replicas, target.reason)
        if events.now < jobs[-1].at_ms:
            events.at(events.now + TICK_MS, tick)

    events.at(TICK_MS, tick)
    return day.play(jobs)


def play_known(jobs: Sequence[Job], start_s: float) -> Played:
    """Somebody who knows all arrivals orders for each quarter of an hour what its busiest five minutes need, in time."""
    spans = 3
    five_ms = QUARTER_MS / spans
    counts = [0] * (int(jobs[-1].at_ms // five_ms) + 1)
    for job in jobs:
        counts[int(job.at_ms // five_ms)] += 1
    busiest = [max(counts[first : first + spans]) / five_ms * 1000 for first in range(0, len(counts), spans)]
    wanted = [min(MOST, max(LEAST, ceil(each / PER_REPLICA))) for each in busiest]
    day = DayFleet(wanted[0], start_s)
    for number, (before, after) in enumerate(pairwise(wanted), 1):
        if before != after:
            early_ms = start_s * 1000 if after > before else 0.0
            at_ms = max(0.0, number * QUARTER_MS - early_ms)
            day.fleet.events.at(at_ms, partial(day.scale, after, "known ahead"))
    return day.play(jobs)
