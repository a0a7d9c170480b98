"""The engine's process in front of its GPU: it reads requests side by side while it writes the tokens of others."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from sage_inference.replay.events import Events, MovableEvent
from sage_inference.simulator.timing import StepTimes

LEAST_LEFT = 0.02  # of its time is left for reading, however many tokens it writes
# The work of reading differs by up to a quarter, evenly spread. Without that, requests of one moment are all read in one
# moment, and their prompts stay together in one step for ever.
SPREAD = 0.5
_EVEN = 0.618034  # multiples of this, without their whole parts, fill the numbers from 0 to 1 evenly


class FrontEnd:
    """Shares the time that writing leaves equally among the requests that are being read.

    vLLM's is one Python process. With many streams it has hardly time for anything but their tokens. Requests that come
    then reach the GPU late, and together. Therefore callers that wait for their answers come back in waves.
    """

    def __init__(self, events: Events, times: StepTimes) -> None:
        self._events = events
        self._times = times
        self._alarm = MovableEvent(events, self._was_read)
        # A heap, by the work that a request will have got when it is read.
        self._reading: list[tuple[float, int, Callable[[], None]]] = []
        self._begun = 0
        self._work = 0.0  # that a request would have got if it had been there from the start
        self._left = 1.0
        self._at = 0.0

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
            self._left = max(LEAST_LEFT, 1.0 - tokens * self._times.write_ms / step_ms)
            self._set_alarm()

    def _begin(self, then: Callable[[], None]) -> None:
        if not self._times.read_ms:
            then()
            return
        self._follow()
        self._begun += 1
        work = self._times.read_ms * (1.0 + SPREAD * (self._begun * _EVEN % 1.0 - 0.5))
        heappush(self._reading, (self._work + work, self._begun, then))
        self._set_alarm()

    def _follow(self) -> None:
        """Add the work that was done since the last time."""
        now = self._events.now
        if self._reading:
            self._work += (now - self._at) * self._left / len(self._reading)
        self._at = now

    def _set_alarm(self) -> None:
        if self._reading:
            missing = max(0.0, self._reading[0][0] - self._work)
            self._alarm.set(self._events.now + missing * len(self._reading) / self._left)

    def _was_read(self) -> None:
        self._follow()
        _, _, then = heappop(self._reading)
        self._set_alarm()
        then()
