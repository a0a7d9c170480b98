"""Whether an instance may be given work: a state machine fed by probes and answers; it reads no clock."""

from __future__ import annotations

import random

from sage_inference.config.settings import HealthSettings
from sage_inference.types import EngineState

BACKOFF_S = (1.0, 60.0)


class Health:
    """One instance's health. Times are seconds on the caller's monotonic clock.

    A refused connection or a failed probe ejects at once, so do ``settings.failures`` consecutive 5xx;
    any answer under 500 or a good probe restores. While ejected it is tried again after 1 s, then 2, 4 … 60 s.
    Placement may still fall back to an ejected instance where its group has no healthy one.
    """

    def __init__(self, settings: HealthSettings, rng: random.Random | None = None) -> None:
        self._settings = settings
        self._rng = rng or random.Random()
        self.state = EngineState.STARTING
        self._errors = 0
        self._backoff = BACKOFF_S[0]
        self._next_probe = 0.0

    @property
    def doubted(self) -> bool:
        """Whether errors came since the last good answer."""
        return self._errors > 0

    def probe_ok(self, now: float) -> None:
        self._restore()
        # Jittered, so that many instances are not probed in one breath.
        self._next_probe = now + self._settings.interval_s * self._rng.uniform(0.8, 1.2)

    def probe_failed(self, now: float) -> None:
        self._eject(now)

    def refused(self, now: float) -> None:
        self._eject(now)

    def answered(self, status: int, now: float) -> None:
        """An answer came; 502 also stands for a connection that broke before one."""
        if status < 500:
            self._restore()
            return
        self._errors += 1
        if self._errors >= self._settings.failures:
            self._eject(now)

    def draining(self, now: float) -> None:
        """It said it is shutting down: nothing new until a probe finds its successor."""
        self.state = EngineState.DRAINING
        self._next_probe = now + BACKOFF_S[0]

    def next_probe_at(self, now: float) -> float:
        return max(now, self._next_probe)

    def _restore(self) -> None:
        self._errors = 0
        if self.state is not EngineState.DRAINING:
            self.state = EngineState.READY
            self._backoff = BACKOFF_S[0]

    def _eject(self, now: float) -> None:
        if self.state is EngineState.EJECTED and now < self._next_probe:
            return  # many requests fail at once: that is one failure, not many doublings
        if self.state is EngineState.EJECTED:
            self._backoff = min(BACKOFF_S[1], self._backoff * 2)
        else:
            self._backoff = BACKOFF_S[0]
        self.state = EngineState.EJECTED
        self._next_probe = now + self._backoff
