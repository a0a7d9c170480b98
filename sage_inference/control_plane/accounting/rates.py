"""Recent rates of the gateway. Retry-After and the retry budget are computed from them."""

from __future__ import annotations

from collections import deque

WINDOW_S = 10


class Rates:
    """Totals that the hot path only increments, and their growth over the last ten seconds.

    ``tick`` is called about once a second. Between ticks nothing is stored for an event.
    """

    def __init__(self) -> None:
        self.submitted = 0
        self.finished = 0
        self.retried = 0
        self.moved = 0  # retries of requests whose instance was out of service while another was well
        self.prompt_tokens = 0  # of placed requests, estimated
        self.uncached_tokens = 0  # prompt tokens that the instances likely had not cached
        self._past: deque[tuple[float, int, int, int]] = deque(maxlen=WINDOW_S + 1)

    def tick(self, now: float) -> None:
        self._past.append((now, self.submitted, self.finished, self.retried - self.moved))

    def finished_per_s(self, now: float) -> float:
        if not self._past or now <= self._past[0][0]:
            return 0.0
        return (self.finished - self._past[0][2]) / (now - self._past[0][0])

    def recent(self) -> tuple[int, int]:
        """The requests of the last ten seconds, and the retries among them without those that moved."""
        past = self._past[0] if self._past else (0.0, 0, 0, 0)
        return self.submitted - past[1], self.retried - self.moved - past[3]


def retry_after_s(ahead: int, rate: float) -> int:
    """Whole seconds until ``ahead`` requests have likely drained at ``rate`` a second, 1 to 60.

    At rate 0 the answer is 5. Never under 1: some SDKs retry at once on ``Retry-After: 0``.
    """
    return 5 if rate <= 0 else max(1, min(60, round(ahead / rate)))
