"""Whether an engine that was ready hangs: neither its health check nor any answer of it shows a sign of life.

An engine that is only busy must not be taken for one that hangs. A long prefill, the load of an adapter and a wait for
a disk show in the CPU time or the state of its processes. Then it has as long as a start has without a sign of life
(``stall_s``), and as long as a request may wait for its first byte. An engine whose processes do nothing hangs sooner.
Time in which the gateway's own process did not run does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from sage_inference.engines.managed.activity import Activity
from sage_inference.engines.managed.failure import EngineFailure

IDLE_S = 60.0  # the time without a sign of life that an engine has whose processes do nothing


@dataclass(frozen=True, slots=True)
class Silence:
    """A look at an engine whose last health checks failed, with no answer since.

    ``sent`` has the answers under way, each with the time until which its next piece may come: that moves with each
    piece. ``allowed_s``: how long its requests may wait for their first byte; 0 if it has none. ``error`` is that of
    the last health check.
    """

    sent: frozenset[tuple[int, float]] = frozenset()
    allowed_s: float = 0.0
    asleep: bool = False
    error: str | None = None


class HangWatch:
    """Judges one engine by looks at it. Times are of a clock that counts only time in which this process ran."""

    def __init__(self, now: float) -> None:
        self._sent: frozenset[tuple[int, float]] = frozenset()
        self.alive(now)

    def alive(self, now: float) -> None:
        """The engine answers, or nobody has to know: it does not serve."""
        self._alive_at = self._worked_at = now

    def hangs(self, silence: Silence, activity: Activity, stall_s: float, now: float) -> str | None:
        """The sentence about an engine that hangs. None if it may still be busy."""
        moved, self._sent = silence.sent - self._sent, silence.sent
        if moved or activity is Activity.DEBUGGED:
            self.alive(now)
            return None
        if activity is not Activity.IDLE or silence.asleep:
            self._worked_at = now
        silent_s = now - self._alive_at
        allowed_s = silence.allowed_s if activity is Activity.WORKS else 0.0
        if now - self._worked_at < IDLE_S and silent_s < max(IDLE_S, stall_s, allowed_s):
            return None
        error = f" ({silence.error})" if silence.error else ""
        return f"it answered nothing for {silent_s:.0f} s, no request and no health check{error}, {_WHILE[activity]}"


_WHILE = {
    Activity.IDLE: "and its processes did nothing",
    Activity.WORKS: "while its processes worked",
    Activity.SUSPENDED: "because its process is suspended (SIGSTOP)",
}


def failure_of(name: str, sentence: str) -> EngineFailure:
    return EngineFailure(sentence, f"sage inference logs {name} -n 50")
