"""Whether an instance may get work: a state machine that probes and answers drive. It reads no clock."""

from __future__ import annotations

import math
import random

from sage_inference.config.settings import HealthSettings
from sage_inference.types import EngineState

# Waits between probes while an instance is out of service. Its return is noticed after the longest of them at the latest.
BACKOFF_S = (1.0, 5.0)
STEADY_S = 60.0  # an instance that is ejected again sooner than this after its return has to prove itself
PROOF_S = (1.0, 4.0)  # the time of good probes that prove it, at first and at the most; doubled each time
REPEAT_S = 0.5  # after a failed probe until the next, which shows soon whether the engine hangs
DRAINED_S = 10.0  # after this long an answer may come from the restarted engine
_INSTANT_S = 0.001  # a shorter rest of a proof ends it; added to a large time it may even be nothing


class Health:
    """One instance's health. Times are seconds on the caller's monotonic clock.

    A refused connection or a failed probe (of two questions) ejects it at once, and so do ``settings.failures``
    consecutive 5xx. Any answer under 500, or a good probe, restores it. While ejected it is probed after 1 s, then 2, 4,
    5, 5 …: a probe costs almost nothing, and a return after an hour should be noticed as soon as one after a minute.

    An instance that comes and goes breaks its streams each time. On its second return within a minute only probes restore
    it, after they were good for 1 s, then 2, then 4. A group without a healthy instance still uses an ejected one.
    """

    def __init__(self, settings: HealthSettings, rng: random.Random | None = None) -> None:
        self._settings = settings
        self._rng = rng or random.Random()
        self.state = EngineState.STARTING
        self._errors = 0
        self.given_up = 0  # answers in a row that began well and were given up
        self._failed_probes = 0  # in a row
        self._contradictions = 0  # in a row
        self._backoff = 0.0
        self._next_probe = 0.0
        self._returned_at = -math.inf
        self._proof_s = 0.0
        self._well_since: float | None = None  # the first good probe since it was ejected
        self._drains_until = 0.0

    @property
    def doubted(self) -> bool:
        """Whether errors came since the last good answer."""
        return self._errors > 0

    @property
    def is_silent(self) -> bool:
        """Whether two probes in a row failed, with no other answer since. Then it is more than busy."""
        return self._failed_probes > 1

    def use(self, settings: HealthSettings, now: float) -> None:
        """Follow other settings; the next probe comes no later than with these."""
        self._settings = settings
        self._next_probe = min(self._next_probe, now + settings.interval_s)

    def probe_ok(self, now: float) -> None:
        self._failed_probes = 0
        if self.state is EngineState.DRAINING and now < self._drains_until:
            self._next_probe = now + self._shortest
            return
        if self._well_since is None:
            self._well_since = now
        left = self._proof_s - (now - self._well_since)
        if self.state is EngineState.EJECTED and left > _INSTANT_S:
            self._next_probe = now + min(left, self._shortest)
            return
        self._restore(now)
        # Jittered, so that many instances are not probed at the same time.
        self._next_probe = now + self._settings.interval_s * self._rng.uniform(0.8, 1.2)

    def probe_failed(self, now: float, refused: bool = False) -> None:
        """A probe failed; ``refused`` if its port takes no connections."""
        self._failed_probes += 1
        self._eject(now)
        if self._failed_probes == 1 and not refused:
            self._next_probe = now + self._repeat

    def contradicted(self, now: float) -> None:
        """The engine is well, but not as it was: its list of models is gone, or it refuses our key."""
        self._contradictions += 1
        if self._contradictions > 1:
            self._eject(now)
        else:
            self._next_probe = now + self._repeat

    def confirmed(self) -> None:
        """The engine is as it was."""
        self._contradictions = 0

    def not_probed(self, now: float) -> None:
        """The probe could not be sent. That shows nothing about the instance, so it is probed again soon."""
        self._next_probe = now + self._shortest

    def refused(self, now: float) -> None:
        self._eject(now)

    def answered(self, status: int, now: float) -> None:
        """An answer came. 502 also stands for a connection that broke before an answer."""
        if status < 500:
            self._errors = self._failed_probes = 0
            proves_itself = self.state is EngineState.EJECTED and self._proof_s > 0
            if self.state is not EngineState.DRAINING and not proves_itself:
                self._restore(now)
            return
        self._errors += 1
        if self._errors >= self._settings.failures:
            self._eject(now)

    def gave_up(self, now: float) -> None:
        """The engine ended an answer early, or with an error. The caller sets ``given_up`` to 0 after a finished answer.

        The good head of the next answer is no proof that the engine is well. It may be going away, so it is probed at once.
        """
        self.given_up += 1
        if self.given_up >= self._settings.failures:
            self._eject(now)
        else:
            self.answered(502, now)
            self._next_probe = min(self._next_probe, now)

    def draining(self, now: float) -> None:
        """The engine reports that it shuts down. It gets no new requests until a probe finds the restarted engine.

        That may be up before a probe finds the old one gone. So after ten seconds the next request tries it, and goes
        elsewhere if it still drains.
        """
        self.state = EngineState.DRAINING
        self._drains_until = now + DRAINED_S
        self._next_probe = now + self._shortest

    def next_probe_at(self, now: float) -> float:
        return max(now, self._next_probe)

    @property
    def _repeat(self) -> float:
        return min(REPEAT_S, self._settings.interval_s)

    @property
    def _shortest(self) -> float:
        return min(BACKOFF_S[0], self._settings.interval_s)

    def _restore(self, now: float) -> None:
        self._errors = 0
        if self.state is EngineState.EJECTED:
            self._returned_at = now
        self.state = EngineState.READY

    def _eject(self, now: float) -> None:
        self._well_since = None
        if self.state is EngineState.EJECTED and now < self._next_probe:
            return  # many requests fail at once: that is one failure, and doubles the wait once
        if self.state is EngineState.EJECTED:
            self._backoff = min(BACKOFF_S[1], self._settings.interval_s, self._backoff * 2)
        else:
            self._backoff = self._shortest
            again = self.state is EngineState.READY and now - self._returned_at < STEADY_S
            self._proof_s = min(PROOF_S[1], self._proof_s * 2 or PROOF_S[0]) if again else 0.0
        self.state = EngineState.EJECTED
        self._next_probe = now + self._backoff
