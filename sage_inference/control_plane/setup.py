"""The settings and the hooks that a scheduler is constructed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sage_inference.config.settings import LimitSettings, SloSettings
from sage_inference.control_plane.instances.load import Placement


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """The part of the configuration that the scheduler follows. A change takes effect with the next event."""

    limits: LimitSettings = field(default_factory=LimitSettings)
    slo: SloSettings = field(default_factory=SloSettings)
    llm_share: float | None = 0.7  # of a shared GPU's time; None: as much as the streams need
    reads_all_usage: bool = False  # usage is read from every answer, as a record of decisions needs it
    weights: Mapping[str, float] = field(default_factory=dict)  # of tenants
    prefers_specialized: bool = True  # instances for one kind of work go before mixed ones


def _nothing() -> None: ...


def _raise(error: Exception) -> None:
    raise error


def _at_once(note: Callable[[], None]) -> None:
    note()


@dataclass(slots=True)
class Hooks:
    """The functions that the scheduler calls in its surroundings.

    ``alarm(time)`` asks for a call of ``Scheduler.dispatch`` at that time of the clock, instead of at the time asked for
    before. ``later(note)`` defers a call that no request waits for, until what has arrived already was handled.
    ``report(error)`` gets an exception that concerns one request while the scheduler is busy with others. ``unserved()``
    is called when no instance serves what a request asks for. ``placed`` and ``ended`` watch attempts.
    """

    alarm: Callable[[float], None] | None = None
    later: Callable[[Callable[[], None]], None] = _at_once
    report: Callable[[Exception], None] = _raise
    unserved: Callable[[], None] = _nothing
    placed: Callable[[Placement], None] | None = None
    ended: Callable[[Placement], None] | None = None
