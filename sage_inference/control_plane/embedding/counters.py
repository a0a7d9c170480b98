"""Counts of merging so far, in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """``requests`` and ``texts`` are what callers asked for, ``sent_texts`` what engines were asked for.

    ``wait_s`` is the sum over sent texts of the time from their arrival to their call.
    """

    requests: int = 0
    texts: int = 0
    calls: int = 0
    sent_texts: int = 0
    shared_texts: int = 0  # found waiting or under way for somebody else
    cached_texts: int = 0
    splits: int = 0
    retries: int = 0
    wait_s: float = 0.0

    @property
    def texts_per_call(self) -> float:
        return self.sent_texts / self.calls if self.calls else 0.0

    @property
    def merge_factor(self) -> float:
        """Requests of callers for each call to an engine."""
        return self.requests / self.calls if self.calls else 0.0

    @property
    def mean_wait_ms(self) -> float:
        return 1000 * self.wait_s / self.sent_texts if self.sent_texts else 0.0
