"""A modelled vLLM pooling engine: a front end for one call at a time, and a core that batches the texts of all calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from sage_inference.replay.encoder_engine import EncoderListener
from sage_inference.replay.events import Events, MovableEvent
from sage_inference.replay.pace import Pace
from sage_inference.simulator.timing import TRANSIT_MS, encoder_ms, front_end_ms, pooling_cpu_ms

STEP_TOKENS = 8192  # vLLM's default
TEXT_TOKENS = 500  # of a call whose texts are not known


class _Call:
    __slots__ = ("caller", "left", "texts", "tokens")

    def __init__(self, texts: int, tokens: int, caller: EncoderListener) -> None:
        self.texts = self.left = texts
        self.tokens = tokens
        self.caller = caller


class PoolingEngine:
    """Times are those of ``simulator.timing``. Only the forward pass is work of the GPU: the rest goes on beside it.

    ``front_pace`` multiplies the times of the front end, and ``core_pace`` those of the core without the forward pass:
    they are those of another processor.
    """

    def __init__(
        self,
        events: Events,
        step_tokens: int = STEP_TOKENS,
        *,
        front_pace: float = 1.0,
        core_pace: float = 1.0,
    ) -> None:
        self.tokens = 0  # computed
        self.turned: Callable[[], None] = lambda: None  # called when the GPU becomes busy or idle
        self.busy = False  # whether a forward pass runs
        self._events = events
        self._step_tokens = step_tokens
        self._front_pace, self._core_pace = front_pace, core_pace
        self._front: deque[tuple[float, Callable[[], None]]] = deque()  # in work first
        self._ready: deque[tuple[_Call, int]] = deque()  # texts, with their tokens
        self._step: list[tuple[_Call, int]] = []
        self._pace = Pace()
        self._pass_ends = MovableEvent(events, self._end)
        self._due = 0.0

    def submit(self, tokens: int, caller: EncoderListener, texts: int = 0) -> None:
        call = _Call(texts or -(-tokens // TEXT_TOKENS), tokens, caller)
        self._work(front_end_ms(call.texts, tokens)[0], partial(self._tokenized, call))

    def set_speed(self, speed: float) -> None:
        self._pace.change(self._events.now, speed)
        if self.busy:
            self._pass_ends.set(self._pace.when(self._due))

    # The front end

    def _work(self, milliseconds: float, then: Callable[[], None]) -> None:
        self._front.append((milliseconds * self._front_pace, then))
        if len(self._front) == 1:
            self._events.at(self._events.now + self._front[0][0], self._worked)

    def _worked(self) -> None:
        _, then = self._front[0]
        then()
        self._front.popleft()
        if self._front:
            self._events.at(self._events.now + self._front[0][0], self._worked)

    def _tokenized(self, call: _Call) -> None:
        each, rest = divmod(call.tokens, call.texts)
        self._ready.extend((call, each + (place < rest)) for place in range(call.texts))
        if not self._step:
            self._begin()

    # The core

    def _begin(self) -> None:
        room = self._step_tokens
        while self._ready and (self._ready[0][1] <= room or not self._step):
            text = self._ready.popleft()
            room -= text[1]
            self._step.append(text)
        if self._step:
            cpu_ms = self._core_pace * pooling_cpu_ms(len(self._step))
            self._events.at(self._events.now + cpu_ms, self._compute)

    def _compute(self) -> None:
        self.busy = True
        tokens = sum(count for _, count in self._step)
        self._due = self._pace.work(self._events.now) + encoder_ms(tokens)
        self._pass_ends.set(self._pace.when(self._due))
        self.turned()

    def _end(self) -> None:
        step, self._step = self._step, []
        self.busy = False
        self.turned()
        self.tokens += sum(count for _, count in step)
        for call, _ in step:
            call.left -= 1
            if not call.left:
                self._work(front_end_ms(call.texts, call.tokens)[1], partial(self._written, call))
        self._begin()

    def _written(self, call: _Call) -> None:
        self._events.at(self._events.now + TRANSIT_MS, call.caller.finished)
