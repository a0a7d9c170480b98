"""The cause of an engine's end, in one sentence, from its log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.engines.managed.progress import Phase


class Retry(StrEnum):
    """Whether and when a start is tried again.

    ``COUNTED`` adds to the failures after which an engine stays down; the others do not.
    """

    NO = "no"
    COUNTED = "counted"
    AT_ONCE = "at_once"
    WITH_CHANGE = "with_change"
    WHEN_MEMORY = "when_memory"
    OTHER_PORT = "other_port"
    BACK_OFF = "back_off"


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """``change`` are settings of the engine for the next try, with ``WITH_CHANGE``."""

    message: str
    hint: str | None = None
    retry: Retry = Retry.COUNTED
    change: dict[str, Any] = field(default_factory=dict)


class Exit(Protocol):
    """The end of a process, as its keeper recorded it."""

    @property
    def status(self) -> int | None: ...
    @property
    def signal(self) -> int | None: ...
    @property
    def ordered(self) -> bool: ...
    @property
    def oom_killed(self) -> bool: ...


def explain(
    lines: Iterable[str],
    exit: Exit | None,
    phase: Phase | None,
    was_ready: bool,
    engine: ManagedEngineSettings,
) -> Failure:
    """The cause of an end that nobody ordered. ``lines`` are the log of this start alone, from its top."""
    return Failure("the engine ended", "sage inference logs shows its own log")


Failure = EngineFailure
