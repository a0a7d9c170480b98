"""Whether an instance may be given work: a state machine fed by probes and answers; it reads no clock."""

from __future__ import annotations

import math
import random

from sage_inference.config.settings import HealthSettings
from sage_inference.types import EngineState

# Waits between probes while an instance is out of service. The longest bounds how late its return is noticed.
BACKOFF_S = (1.0, 5.0)
STEADY_S = 60.0  # who is ejected again sooner than this after a return has to prove itself
PROOF_S = (1.0, 4.0)  # for so long, doubled each time
REPEAT_S = 0.5  # until it is probed again whose probe failed: whether it hangs is to be known soon
DRAINED_S = 10.0  # after so long, who answers may be the successor of who said it was draining


class Health:
    """One instance's health. Times are seconds on the caller's monotonic clock.

    A refused connection or a failed probe (of two questions) ejects at once, so do ``settings.failures`` consecutive
    5xx; any answer under 500 or a good probe restores. While ejected it is probed after 1 s, then 2, 4, 5, 5 …: a
    probe costs next to nothing, and a return after an hour is to be noticed as soon as one after a minute.
    One that comes and goes breaks the streams it is given each time: on its second return within a minute only
    probes restore it, when they were good for 1 s, then 2, then 4.
    Placement may still fall back to an ejected instance where its group has no healthy one.
    """

    def __init__(self, settings: HealthSettings, rng: random.Random | None = None) -> None:
        self._settings = settings
        self._rng = rng or random.Random()
        self.state = EngineState.STARTING
        self._errors = 0
        self.given_up = 0  # answers in a row that began well and that it gave up
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
        """Whether two probes in a row failed, and it has answered nothing else since: it is more than busy."""
        return self._failed_probes > 1

    def use(self, settings: HealthSettings, now: float) -> None:
        """Go by other settings; the next probe comes no later than they say."""
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
        if self.state is EngineState.EJECTED and left > 0:
            self._next_probe = now + min(left, self._shortest)
            return
        self._restore(now)
        # Jittered, so that many instances are not probed in one breath.
        self._next_probe = now + self._settings.interval_s * self._rng.uniform(0.8, 1.2)

    def probe_failed(self, now: float, refused: bool = False) -> None:
        """``refused``: nobody listens on its port."""
        self._failed_probes += 1
        self._eject(now)
        if self._failed_probes == 1 and not refused:
            self._next_probe = now + self._repeat

    def contradicted(self, now: float) -> None:
        """It is well, and yet not what it was: its models' list is gone, or it takes our key no more."""
        self._contradictions += 1
        if self._contradictions > 1:
            self._eject(now)
        else:
            self._next_probe = now + self._repeat

    def confirmed(self) -> None:
        """It is what it was thought to be."""
        self._contradictions = 0

    def not_probed(self, now: float) -> None:
        """The probe could not be sent. That is no fact about the instance, so it is probed again soon."""
        self._next_probe = now + self._shortest

    def refused(self, now: float) -> None:
        self._eject(now)

    def answered(self, status: int, now: float) -> None:
        """An answer came; 502 also stands for a connection that broke before one."""
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
        """It ended an answer early, or with an error. To be cleared by an answer that it finished: set ``given_up`` to 0.

        The good head of the next answer is no proof that it is well. The engine may be going away, so it is probed at once.
        """
        self.given_up += 1
        if self.given_up >= self._settings.failures:
            self._eject(now)
        else:
            self.answered(502, now)
            self._next_probe = min(self._next_probe, now)

    def draining(self, now: float) -> None:
        """It said it is shutting down: nothing new until a probe finds its successor.

        Its successor may be up before a probe finds it gone: after ten seconds the next request tries it, and
        goes elsewhere if it still drains.
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
            return  # many requests fail at once: that is one failure, not many doublings
        if self.state is EngineState.EJECTED:
            self._backoff = min(BACKOFF_S[1], self._settings.interval_s, self._backoff * 2)
        else:
            self._backoff = self._shortest
            again = self.state is EngineState.READY and now - self._returned_at < STEADY_S
            self._proof_s = min(PROOF_S[1], self._proof_s * 2 or PROOF_S[0]) if again else 0.0
        self.state = EngineState.EJECTED
        self._next_probe = now + self._backoff
