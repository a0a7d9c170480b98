"""The progress of an engine's start, from its log and from the file system."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StartPhase(StrEnum):
    """The phases of a start, in their order. An engine may leave some out."""

    BOOT = "boot"
    FETCH = "fetch"
    LOAD = "load"
    COMPILE = "compile"
    CAPTURE = "capture"
    WARM = "warm"


@dataclass(frozen=True, slots=True)
class StartMoment:
    """One moment of a start. ``share`` is the part of the phase that is done, from 0 to 1, if it is known."""

    phase: StartPhase
    share: float | None = None
    detail: str | None = None


Phase = StartPhase
Progress = StartMoment
