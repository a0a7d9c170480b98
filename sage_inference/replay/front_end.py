"""The engine's process in front of its GPU: it reads requests in the time that writing the tokens of others leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sage_inference.replay.events import Events, MovableEvent
from sage_inference.simulator.timing import StepTimes

LEAST_LEFT = 0.02  # of its time is left for reading, however many tokens it writes


class FrontEnd:
    """Reads requests in turns, in the time that writing leaves. After each turn a request waits for all others.

    vLLM's is one Python process. Its event loop writes tokens, and one thread beside it renders and tokenizes prompts. The
    loop takes the interpreter's lock back before the thread has woken up. So with many streams there is hardly time for
    anything but their tokens. Requests that come then reach the GPU late, and together. Therefore callers that wait for
    their answers come back in waves.
    """

    def __init__(self, events: Events, times: StepTimes) -> None:
        self._events = events
        self._times = times
        self._alarm = MovableEvent(events, self._end_turn)
        self._turn_ms = times.read_ms / times.turns
        self._reading: deque[tuple[int, Callable[[], None]]] = deque()  # with the turns that they need
        self._missing = 0.0  # work in this turn of the first of them
        self._left = 1.0
        self._at = 0.0
        self._burst_ms = 0.0  # to write the tokens of a step
        self._written = 0.0

    def read(self, then: Callable[[], None]) -> None:
        """Read a request, and call ``then`` when the engine has it."""
        if self._times.request_ms:
            self._events.at(self._events.now + self._times.request_ms, lambda: self._begin(then))
        else:
            self._begin(then)

    def writes(self, tokens: int, step_ms: float) -> None:
        """From now on each step of so many milliseconds has so many tokens to write."""
        if self._times.write_ms:
            self._follow()
            self._burst_ms = tokens * self._times.write_ms
            self._left = max(LEAST_LEFT, 1.0 - self._burst_ms / step_ms)
            self._set_alarm()

    def deliver(self, then: Callable[[], None]) -> None:
        """Call ``then`` when the tokens of the step that ends now are written: those of new sequences are the last."""
        if not self._times.write_ms:
            then()
            return
        self._written = max(self._written, self._events.now + self._burst_ms)
        self._events.at(self._written, then)

    def _begin(self, then: Callable[[], None]) -> None:
        if not self._times.read_ms:
            then()
            return
        self._follow()
        if not self._reading:
            self._missing = self._turn_ms
        self._reading.append((self._times.turns, then))
        self._set_alarm()

    def _follow(self) -> None:
        """Subtract the work that was done since the last time."""
        now = self._events.now
        if self._reading:
            self._missing -= (now - self._at) * self._left
        self._at = now

    def _set_alarm(self) -> None:
        if self._reading:
            self._alarm.set(self._events.now + max(0.0, self._missing) / self._left)

    def _end_turn(self) -> None:
        self._follow()
        turns, then = self._reading.popleft()
        if turns > 1:
            self._reading.append((turns - 1, then))
        self._missing = self._turn_ms
        self._set_alarm()
        if turns == 1:
            then()
