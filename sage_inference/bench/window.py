"""The time that is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Window:
    """The time from the end of the warm-up to the end of the load, as moments of ``time.monotonic``.

    A load of a given number of requests ends with the last answer, but puts less and less on the server after its
    last request was sent, at ``sent_until``.
    """

    start: float
    end: float
    sent_until: float = math.inf

    @property
    def seconds(self) -> float:
        return max(self.end - self.start, 1e-9)

    @property
    def load_end(self) -> float:
        """The end of the time in which each answer, or each moment, let another request go."""
        return min(self.end, self.sent_until)
