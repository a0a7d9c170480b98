"""The limits for good answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sage_inference.bench.errors import OptionError

FIGURES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class SloLimits:
    """Limits in milliseconds. None means no limit."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in FIGURES)

    def met(self, *, streamed: bool, ttft_s: float | None, tpot_s: float | None, e2e_s: float) -> bool:
        """Whether an answer met the limits. ``ttft`` and ``tpot`` apply to streams. A stream without text misses ``ttft``."""
        if self.e2e is not None and e2e_s * 1000 > self.e2e:
            return False
        if not streamed:
            return True
        if self.ttft is not None and (ttft_s is None or ttft_s * 1000 > self.ttft):
            return False
        return self.tpot is None or tpot_s is None or tpot_s * 1000 <= self.tpot


def parse(text: str | None) -> SloLimits:
    """The limits in ``ttft=500,tpot=50,e2e=5000``, or some of them. Raises ``OptionError``."""
    limits: dict[str, float] = {}
    for part in text.split(",") if text is not None else ():
        name, _, value = (word.strip() for word in part.partition("="))
        try:
            limit = float(value.removesuffix("ms"))
        except ValueError:
            limit = math.nan
        if name not in FIGURES or name in limits or not 0 < limit < math.inf:
            raise OptionError("--slo", part, "a limit in ms such as ttft=500, tpot=50 or e2e=5000, each once")
        limits[name] = limit
    return SloLimits(**limits)
