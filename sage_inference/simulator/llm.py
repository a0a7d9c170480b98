"""The simulated decoder: continuous batching with chunked prefill and a prefix cache.

One task runs steps while there is work, and otherwise sleeps on an event. In a step every sequence past its
prompt gets one token, and the rest of the token budget goes to prompts, oldest first. There is no preemption:
a sequence is admitted when its prompt fits into the KV cache, and stays.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sage_inference.simulator.clock import Clock
from sage_inference.simulator.prefix_cache import PrefixCache
from sage_inference.simulator.timing import llm_step_ms


@dataclass(frozen=True, slots=True)
class Limits:
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    kv_cache_tokens: int = 940_000
    block_size: int = 16


def _ignore(*_: float) -> None: ...


@dataclass(slots=True)
class Observers:
    """Receivers of durations in seconds, and of counts."""

    first_token: Callable[[float], None] = _ignore
    next_tokens: Callable[[float, int], None] = _ignore
    step_tokens: Callable[[float], None] = _ignore


class Generation:
    """One sequence with its progress. Callers can wait for its tokens."""

    __slots__ = (
        "_waiter",
        "aborted",
        "blocks",
        "cached",
        "computed",
        "fetched",
        "output",
        "produced",
        "prompt",
        "since",
    )

    def __init__(self, prompt: int, output: int, blocks: Sequence[int], fetched: int) -> None:
        self.prompt = prompt  # tokens
        self.output = output
        self.blocks = blocks
        self.fetched = fetched  # prompt tokens that another engine computed
        self.cached = 0  # prompt tokens that were not computed again
        self.computed = 0
        self.produced = 0
        self.since = 0.0
        self.aborted = False
        self._waiter: tuple[asyncio.Future[None], int] | None = None

    @property
    def context(self) -> int:
        return self.computed + self.produced

    @property
    def done(self) -> bool:
        return self.produced >= self.output

    async def reach(self, tokens: int) -> int:
        """Wait until ``tokens`` or all tokens are produced. Returns the number produced."""
        while self.produced < (wanted := min(tokens, self.output)):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiter = (future, wanted)
            await future
        return self.produced

    def advance(self, tokens: int) -> None:
        self.produced += tokens
        if self._waiter is not None and self.produced >= min(self._waiter[1], self.output):
            future, _ = self._waiter
            self._waiter = None
            if not future.done():
                future.set_result(None)


class LLM:
    def __init__(self, limits: Limits, clock: Clock, observers: Observers | None = None) -> None:
        self.limits = limits
        self.cache = PrefixCache(limits.kv_cache_tokens // limits.block_size)
        self.running: list[Generation] = []
        self.waiting: deque[Generation] = deque()
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.cache_queries = 0
        self.cache_hits = 0
        self._clock = clock
        self._tell = observers or Observers()
        self._wake = asyncio.Event()
        self._paused = False

    @property
    def kv_usage(self) -> float:
        return min(1.0, sum(one.context for one in self.running) / self.limits.kv_cache_tokens)

    def submit(self, prompt: int, output: int, blocks: Sequence[int] = (), fetched: int = 0) -> Generation:
        generation = Generation(prompt, output, blocks, fetched)
        if self._clock.instant and not self._paused:
            self._enter(generation)
            self._prefilled(generation)
            self.generated_tokens += output - 1
            generation.advance(output - 1)
            return generation
        generation.since = asyncio.get_running_loop().time()
        self.waiting.append(generation)
        self._wake.set()
        return generation

    def abort(self, generation: Generation) -> None:
        """Drop a sequence at once. Has no effect on a finished one."""
        generation.aborted = True
        if generation in self.running:
            self.running.remove(generation)
        elif generation in self.waiting:
            self.waiting.remove(generation)

    def pause(self) -> None:
        """Run no step until ``resume``, and clear the prefix cache."""
        self._paused = True
        self.cache.clear()

    def resume(self) -> None:
        self._paused = False
        self._wake.set()

    def give_up(self, generation: Generation) -> None:
        """End a sequence with its present tokens and one empty token, which carries the finish reason."""
        self.abort(generation)
        generation.output = generation.produced + 1
        generation.advance(1)

    async def run(self) -> None:
        """Run steps until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            while self._paused or not (self.running or self.waiting):
                self._wake.clear()
                await self._wake.wait()
                self._clock.start()
            began = loop.time()
            self._admit()
            decoding, chunks = self._plan()
            prefill = [(new, one.computed) for one, new in chunks]
            context = sum(one.context for one in self.running)
            self._tell.step_tokens(len(decoding) + sum(new for new, _ in prefill))
            await self._clock.spend(llm_step_ms(len(self.running), context, prefill))
            self._apply(decoding, chunks, began)

    def _admit(self) -> None:
        room = self.limits.kv_cache_tokens - sum(one.prompt + one.produced for one in self.running)
        while self.waiting and len(self.running) < self.limits.max_num_seqs:
            # A sequence longer than the whole cache was refused earlier, so a single one always fits.
            if self.waiting[0].prompt > room and self.running:
                return
            generation = self.waiting.popleft()
            room -= generation.prompt
            self._enter(generation)
            self.running.append(generation)

    def _enter(self, generation: Generation) -> None:
        size = self.limits.block_size
        # The last prompt token is always computed, because its output is the first new token.
        most = (generation.prompt - 1) // size
        local = min(self.cache.leading(generation.blocks), most) * size
        generation.cached = max(local, min(generation.fetched, generation.prompt - 1))
        generation.computed = generation.cached
        self.prompt_tokens += generation.prompt
        self.cache_queries += generation.prompt
        self.cache_hits += local

    def _plan(self) -> tuple[list[Generation], list[tuple[Generation, int]]]:
        """The sequences that get a token in this step, and the prompts with the tokens to compute."""
        decoding = [one for one in self.running if one.computed == one.prompt]
        budget = self.limits.max_num_batched_tokens - len(decoding)
        chunks: list[tuple[Generation, int]] = []
        if len(decoding) < len(self.running):
            for one in self.running:
                new = min(one.prompt - one.computed, budget)
                if new > 0:
                    chunks.append((one, new))
                    budget -= new
        return decoding, chunks

    def _apply(self, decoding: list[Generation], chunks: list[tuple[Generation, int]], began: float) -> None:
        now = asyncio.get_running_loop().time()
        for one in decoding:
            if not one.aborted:
                one.advance(1)
        self.generated_tokens += len(decoding)
        self._tell.next_tokens(now - began, len(decoding))
        for one, new in chunks:
            one.computed += new
            if one.computed == one.prompt and not one.aborted:
                self._prefilled(one)
                self._tell.first_token(now - one.since)
        self.running = [one for one in self.running if not one.done]

    def _prefilled(self, generation: Generation) -> None:
        generation.computed = generation.prompt
        self.cache.keep(generation.blocks)
        self.generated_tokens += 1
        generation.advance(1)
