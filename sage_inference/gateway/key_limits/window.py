"""The sum of what was used in the last minute: a sliding window, as of requests and of tokens.

The window is divided into bins of half a second. A bin counts until all of it is older than a minute. Therefore no
minute, wherever it begins, has more than the limit, and a caller loses at most half a second of 60, which is 0.8 %.

A token bucket or GCRA (ATM Forum, "Traffic Management 4.0", 1996) would take less memory. A full bucket lets through
twice its limit in the first minute, though, and an almost empty one refuses bursts of callers that use little. The
sliding window is that of Cloudflare ("Counting things, a lot of different things", 2017), with exact counts.
"""

from __future__ import annotations

MINUTE_S = 60.0
BIN_S = 0.5
BINS = int(MINUTE_S / BIN_S) + 1  # the newest one is not complete yet


class MinuteWindow:
    """Amounts of the last minute. Times are of one clock that never goes back."""

    __slots__ = ("_at", "_bins", "_last", "total")

    def __init__(self) -> None:
        self.total = 0
        self._bins = [0] * BINS
        self._at = 0  # the number of the newest bin
        self._last = 0  # of the newest one to which something was added

    def advance(self, now: float) -> int:
        """Drop what is older than a minute. Returns the number of the newest bin."""
        at = int(now / BIN_S)
        if at > self._at:
            if self.total:
                for passed in range(self._at + 1, min(at, self._at + BINS) + 1):
                    slot = passed % BINS
                    self.total -= self._bins[slot]
                    self._bins[slot] = 0
            self._at = at
        return self._at

    def add(self, amount: int, at: int) -> None:
        """Count ``amount`` in the bin ``at``, unless that is older than a minute. A refund is below 0."""
        if at > self._at - BINS:
            self._bins[at % BINS] += amount
            self.total += amount
            if at > self._last:
                self._last = at

    def wait(self, now: float, most: int) -> float:
        """Seconds until the sum is at most ``most``, if nothing is added."""
        surplus = self.total - most
        if surplus <= 0:
            return 0.0
        if most <= 0:  # each answer reports this one
            return max(0.0, (self._last + BINS) * BIN_S - now)
        for at in range(self._at - BINS + 1, self._at + 1):
            surplus -= self._bins[at % BINS]
            if surplus <= 0:
                return max(0.0, (at + BINS) * BIN_S - now)
        return MINUTE_S + BIN_S
