"""A modelled embedding engine: calls in order of arrival, as many in a forward pass as fit its token budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from sage_inference.replay.events import Events, MovableEvent
from sage_inference.replay.pace import Pace
from sage_inference.simulator.timing import encoder_ms

BATCH_TOKENS = 16_384  # TEI's default


class EncoderListener(Protocol):
    def finished(self) -> None: ...


class EncoderEngine:
    """Computes calls and notifies their callers. A call longer than the token budget runs alone."""

    def __init__(self, events: Events, batch_tokens: int = BATCH_TOKENS) -> None:
        self.tokens = 0  # computed
        self.turned: Callable[[], None] = lambda: None  # called when the engine becomes busy or idle
        self._batch_tokens = batch_tokens
        self._events = events
        self._pace = Pace()
        self._alarm = MovableEvent(events, self._end)
        self._waiting: deque[tuple[int, EncoderListener]] = deque()
        self._batch: list[tuple[int, EncoderListener]] = []
        self._due = 0.0

    @property
    def busy(self) -> bool:
        return bool(self._batch)

    def submit(self, tokens: int, caller: EncoderListener) -> None:
        self._waiting.append((tokens, caller))
        if not self._batch:
            self._begin()
            self.turned()

    def set_speed(self, speed: float) -> None:
        self._pace.change(self._events.now, speed)
        if self._batch:
            self._alarm.set(self._pace.when(self._due))

    def _begin(self) -> None:
        room = self._batch_tokens
        while self._waiting and (self._waiting[0][0] <= room or not self._batch):
            call = self._waiting.popleft()
            room -= call[0]
            self._batch.append(call)
        if self._batch:
            self._due = self._pace.work(self._events.now) + encoder_ms(self._batch_tokens - room)
            self._alarm.set(self._pace.when(self._due))

    def _end(self) -> None:
        batch, self._batch = self._batch, []
        self.tokens += sum(tokens for tokens, _ in batch)
        self._begin()
        if not self._batch:
            self.turned()
        for _, caller in batch:
            caller.finished()
