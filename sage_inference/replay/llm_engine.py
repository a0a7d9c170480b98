"""A modelled LLM engine: continuous batching, chunked prefill, a prefix cache and preemption in virtual time.

A step follows vLLM: every sequence past its prompt gets one token, and the rest of the token budget goes to
prompts, oldest first. Steps in which no sequence enters or leaves are computed in one go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import ceil, inf, sqrt
from typing import Protocol

from sage_inference.replay.events import Events, MovableEvent
from sage_inference.replay.front_end import FrontEnd
from sage_inference.replay.kv_cache import KVCache
from sage_inference.replay.pace import Pace
from sage_inference.simulator.timing import USUAL, StepTimes


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """vLLM's defaults on an H100 with a 7B model. ``block_tokens`` is the unit in which prefixes are shared.

    ``max_model_len`` limits the tokens of a prompt and its answer together; 0 leaves the KV memory as the limit.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    kv_tokens: int = 940_000
    block_tokens: int = 512
    max_model_len: int = 0

    @property
    def longest(self) -> int:
        """The most tokens that a sequence may have."""
        return min(self.max_model_len or self.kv_tokens, self.kv_tokens)


class SequenceListener(Protocol):
    """The sender of a sequence."""

    def first_token(self, cached: int) -> None: ...

    def streamed(self, gap_ms: float) -> None: ...

    def finished(self) -> None: ...


class _Nobody:
    """Listens for a sender that has left."""

    def first_token(self, cached: int) -> None: ...

    def streamed(self, gap_ms: float) -> None: ...

    def finished(self) -> None: ...


NOBODY = _Nobody()


class ModelledSequence:
    """One sequence in the engine. ``blocks`` are the full blocks of its prompt."""

    __slots__ = (
        "blocks",
        "cached",
        "computed",
        "entry",
        "finish_step",
        "gone",
        "listener",
        "output",
        "produced",
        "prompt",
        "ready",
        "shared",
        "target",
    )

    def __init__(self, prompt: int, output: int, blocks: Sequence[int], listener: SequenceListener) -> None:
        self.prompt = prompt
        self.output = output
        self.blocks = blocks
        self.listener = listener
        self.cached = 0  # prompt tokens found in the cache at the first admission
        self.target = prompt  # tokens to compute before it decodes; includes its output after a preemption
        self.computed = 0
        self.shared = 0  # blocks it holds
        self.produced = 0  # tokens; not updated while it decodes
        self.entry = 0  # number of its heap entry while it decodes, otherwise 0
        self.finish_step = 0
        self.ready = 0  # the first step that it can be planned for
        self.gone = False  # its sender has left

    @property
    def length(self) -> int:
        """Tokens of KV memory that the sequence holds."""
        return self.prompt + self.produced if self.entry else self.target

    @property
    def context(self) -> int:
        """Tokens that a step attends to."""
        return self.prompt + self.produced if self.entry else self.computed


class LLMEngine:
    """Computes sequences and notifies their listeners. Inner times are work, see ``Pace``.

    Listeners get ``streamed`` for tokens after the first only with ``reports_steps``, because then each step
    must be computed by itself.
    """

    def __init__(self, events: Events, limits: EngineLimits | None = None, times: StepTimes = USUAL) -> None:
        self.limits = limits or EngineLimits()
        self.cache = KVCache(self.limits.kv_tokens, self.limits.block_tokens)
        self.waiting: deque[ModelledSequence] = deque()
        self.running: dict[ModelledSequence, None] = {}  # in order of admission
        self.prompt_tokens = 0
        self.computed_tokens = 0
        self.generated_tokens = 0
        self.preemptions = 0
        self.reports_steps = False
        self.turned: Callable[[], None] = lambda: None  # called when the engine becomes busy or idle
        self._events = events
        self._times = times
        self._front_end = FrontEnd(events, times)
        self._pace = Pace()
        self._alarm = MovableEvent(events, self._end)
        self._prefilling: list[ModelledSequence] = []
        self._finishing: list[tuple[int, int, ModelledSequence]] = []  # decoding sequences by their last step
        self._leaving: list[ModelledSequence] = []  # running ones whose sender has left
        self._entries = 0
        self._decoding = 0
        self._context = 0  # tokens of all running sequences
        self._step = 0
        # The steps under way: number, start, duration of the first, and the increase of each next one.
        self._steps = 0
        self._ending = False  # while listeners are notified, which may submit at once
        self._began = self._began_at = 0.0
        self._first_ms = self._longer_ms = 0.0
        self._chunks: list[tuple[ModelledSequence, int]] = []

    @property
    def busy(self) -> bool:
        return self._steps > 0

    def submit(self, generation: ModelledSequence) -> None:
        """Queue a sequence. Raises ``ValueError`` if it can never fit."""
        if generation.prompt + generation.output > self.limits.longest:
            raise ValueError(
                f"{generation.prompt} + {generation.output} tokens exceed the context of {self.limits.longest}"
            )
        self._front_end.read(lambda: self._arrive(generation))

    def abort(self, generation: ModelledSequence) -> None:
        """The sender left: give the sequence's memory back after the step under way. Its listener gets no more calls."""
        generation.gone = True
        generation.listener = NOBODY
        if generation in self.running:
            self._leaving.append(generation)
            self._plan_after(self._steps_until_plan())
        elif generation in self.waiting:
            self.waiting.remove(generation)

    def _arrive(self, generation: ModelledSequence) -> None:
        if generation.gone:
            return
        self.waiting.append(generation)
        if not self._steps:
            self._begin()
            self.turned()
            return
        if self._ending:
            generation.ready = self._step + self._times.ahead + 1
            return
        taken = self._steps_until_plan()
        generation.ready = self._step + taken + 1
        self._plan_after(taken)

    def _plan_after(self, steps: int) -> None:
        """Plan anew after so many of the steps under way, if there are more."""
        if steps < self._steps:
            self._steps = steps
            self._alarm.set(self._pace.when(self._began + self._span(steps)))

    def set_speed(self, speed: float) -> None:
        self._pace.change(self._events.now, speed)
        if self._steps:
            self._alarm.set(self._pace.when(self._began + self._span(self._steps)))

    # Steps

    def _span(self, steps: int) -> float:
        return steps * self._first_ms + self._longer_ms * steps * (steps - 1) / 2

    def _begin(self) -> None:
        """At the end of a step, plan the next one and those equal to it."""
        self._chunks = self._plan(admit=self._make_room())
        sequences = len(self.running)
        if not sequences:
            self._steps = 0
            self._front_end.writes(0, 1.0)
            return
        parts = [(new, one.computed) for one, new in self._chunks]
        self._first_ms = self._times.step_ms(sequences, self._context, parts)
        self._longer_ms = 0.0
        self._steps = 1
        if not self._chunks and not self.reports_steps:
            self._longer_ms = self._times.context_ms * self._decoding
            until_full = (self.cache.tokens - self.cache.used) // self._decoding
            until_ready = self.waiting[0].ready - self._step - 1 if self.waiting else 0
            most = min(self._next_finish() - self._step, until_full)
            self._steps = max(1, min(most, until_ready) if until_ready > 0 else most)
        self._front_end.writes(self._decoding, self._first_ms)
        self._began = self._pace.work(self._events.now)
        self._began_at = self._events.now
        self._alarm.set(self._pace.when(self._began + self._span(self._steps)))

    def _steps_until_plan(self) -> int:
        """The number of the steps under way that do not take in a sequence that arrives now.

        They end with the current one, or with the one after it if that was planned as the current one began.
        """
        steps = 1
        if self._steps > 1:
            elapsed = self._pace.work(self._events.now) - self._began
            half = self._first_ms - self._longer_ms / 2
            steps = ceil((sqrt(half * half + 2 * self._longer_ms * elapsed) - half) / self._longer_ms - 1e-9)
        return max(1, steps) + self._times.ahead

    def _end(self) -> None:
        """Account for the planned steps, and plan the next ones."""
        self._ending = True
        self._step += self._steps
        tokens = self._steps * self._decoding
        self._context += tokens
        self.cache.private += tokens
        self.generated_tokens += tokens
        if self.reports_steps:
            self._report_step()
        while self._decoding and self._next_finish() <= self._step:
            one = heappop(self._finishing)[2]
            one.produced = one.output
            self._end_of(one)
        for one, new in self._chunks:
            self._computed(one, new)
        self._let_go()
        self.cache.trim()
        self._ending = False
        self._begin()
        if not self._steps:
            self.turned()

    def _report_step(self) -> None:
        took = self._events.now - self._began_at
        for one in self.running:
            if one.entry:
                one.listener.streamed(took)

    def _next_finish(self) -> int:
        """The step in which the next sequence ends. Drops entries of preempted sequences."""
        finishing = self._finishing
        while finishing[0][1] != finishing[0][2].entry:
            heappop(finishing)
        return finishing[0][0]

    # Prompts

    def _plan(self, admit: bool) -> list[tuple[ModelledSequence, int]]:
        """The prompts to compute in the next step, each with a number of tokens."""
        budget = self.limits.max_num_batched_tokens - self._decoding
        chunks: list[tuple[ModelledSequence, int]] = []
        for one in self._prefilling:
            new = min(one.target - one.computed, budget)
            if new > 0:
                chunks.append((one, new))
                budget -= new
        # A plan of an engine that has nothing else to do is not made ahead.
        planned = self._step + 1 if self.running else inf
        while admit and budget > 0 and self.waiting and self._admit(self.waiting[0], planned):
            one = self.waiting.popleft()
            new = min(one.target - one.computed, budget)
            chunks.append((one, new))
            budget -= new
        return chunks

    def _admit(self, one: ModelledSequence, step: float) -> bool:
        if one.ready > step or len(self.running) >= self.limits.max_num_seqs:
            return False
        size = self.limits.block_tokens
        # The last token is always computed, because its output is the next token.
        hits = self.cache.leading(one.blocks, (one.target - 1) // size)
        found = one.blocks[:hits]
        private = one.target - hits * size
        if self.running and not self.cache.fits(found, private):
            return False
        self.cache.use(found)
        self.cache.private += private
        self.cache.trim()
        one.shared = hits
        one.computed = hits * size
        if not one.produced:
            one.cached = one.computed
            self.prompt_tokens += one.prompt
        self._context += one.computed
        self.running[one] = None
        self._prefilling.append(one)
        return True

    def _computed(self, one: ModelledSequence, new: int) -> None:
        """Record a computed part of a prompt. Its full blocks can be shared from now on."""
        size = self.limits.block_tokens
        one.computed += new
        self.computed_tokens += new
        self._context += new
        whole = one.blocks[one.shared : one.computed // size]
        self.cache.use(whole)
        self.cache.private -= len(whole) * size
        one.shared += len(whole)
        if one.computed == one.target:
            self._prefilling.remove(one)
            self._produce(one)

    def _produce(self, one: ModelledSequence) -> None:
        """Record the token of the prompt's last step. Each later step gives one more."""
        one.produced += 1
        self._context += 1
        self.cache.private += 1
        self.generated_tokens += 1
        self._entries += 1
        self._decoding += 1
        one.entry = self._entries
        one.finish_step = self._step + one.output - one.produced
        if one.produced == 1:
            self._front_end.deliver(lambda: one.listener.first_token(one.cached))
        if one.produced == one.output:
            self._end_of(one)
        else:
            heappush(self._finishing, (one.finish_step, one.entry, one))

    def _end_of(self, one: ModelledSequence) -> None:
        self._remove(one)
        self._front_end.deliver(one.listener.finished)

    # Memory

    def _make_room(self) -> bool:
        """Preempt the newest sequences until a step fits. False if that was needed."""
        enough = True
        while self.cache.used + self._decoding > self.cache.tokens and len(self.running) > 1:
            self._preempt(next(reversed(self.running)))
            enough = False
        return enough

    def _let_go(self) -> None:
        """Free the memory of sequences whose sender left, unless they have ended since."""
        for one in self._leaving:
            if one in self.running:
                self._interrupt(one)
        self._leaving.clear()

    def _preempt(self, one: ModelledSequence) -> None:
        """Free the sequence's KV and queue it again, with its output as part of its prompt."""
        self._interrupt(one)
        one.target = one.prompt + one.produced
        one.ready = 0
        self.waiting.appendleft(one)
        self.preemptions += 1

    def _interrupt(self, one: ModelledSequence) -> None:
        """Free the memory of a running sequence that has not ended."""
        if one.entry:
            one.produced = one.output - (one.finish_step - self._step)
        else:
            self._prefilling.remove(one)
        self._remove(one)

    def _remove(self, one: ModelledSequence) -> None:
        """Free the memory of a sequence, whose ``produced`` must be up to date."""
        self.cache.leave(one.blocks[: one.shared])
        self.cache.private -= one.length - one.shared * self.limits.block_tokens
        self._context -= one.context
        if one.entry:
            self._decoding -= 1
        one.entry = one.shared = 0
        del self.running[one]
