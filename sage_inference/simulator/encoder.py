"""The simulated encoder: waiting texts of all callers share batches, up to a token budget each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from sage_inference.simulator.clock import Clock
from sage_inference.simulator.timing import encoder_ms


class EncoderCall:
    """One caller's texts. Times are in seconds and known once ``finished`` is set."""

    __slots__ = ("aborted", "finished", "left", "queued_s", "ran_s", "since")

    def __init__(self, texts: int, since: float, finished: asyncio.Future[None]) -> None:
        self.left = texts
        self.since = since
        self.finished = finished
        self.queued_s = -1.0
        self.ran_s = 0.0
        self.aborted = False


class Encoder:
    def __init__(
        self,
        max_batch_tokens: int,
        clock: Clock,
        on_batch: Callable[[int, int], None] = lambda texts, tokens: None,
        *,
        serial: bool = False,
        step_ms: Callable[[int, int], float] = lambda texts, tokens: encoder_ms(tokens),
    ) -> None:
        """``serial``: a batch has the texts of one call only, as with servers that do not batch calls.

        ``step_ms`` are the milliseconds of a batch, from its texts and its tokens.
        """
        self.calls = 0
        self.texts = 0
        self.tokens = 0
        self.running = 0  # texts in the present batch
        self.waiting: deque[tuple[EncoderCall, int]] = deque()
        self._max_batch_tokens = max_batch_tokens
        self._clock = clock
        self._on_batch = on_batch
        self._serial = serial
        self._step_ms = step_ms
        self._wake = asyncio.Event()
        self._paused = False

    async def encode(self, tokens: Sequence[int]) -> EncoderCall:
        """Wait until texts with these numbers of tokens are encoded."""
        self.calls += 1
        self.texts += len(tokens)
        self.tokens += sum(tokens)
        loop = asyncio.get_running_loop()
        call = EncoderCall(len(tokens), loop.time(), loop.create_future())
        if (self._clock.instant and not self._paused) or not tokens:
            call.queued_s = 0.0
            self._on_batch(len(tokens), sum(tokens))
            return call
        self.waiting.extend((call, count) for count in tokens)
        self._wake.set()
        try:
            await call.finished
        finally:
            call.aborted = True  # if the caller has left, its waiting texts are skipped
        return call

    def pause(self) -> None:
        """Run no batch until ``resume``."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._wake.set()

    async def run(self) -> None:
        """Run batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            while self._paused or not self.waiting:
                self._wake.clear()
                await self._wake.wait()
                self._clock.start()
            batch, tokens = self._take()
            if not batch:
                continue
            began = loop.time()
            for call in batch:
                if call.queued_s < 0:
                    call.queued_s = began - call.since
            self.running = len(batch)
            self._on_batch(len(batch), tokens)
            await self._clock.spend(self._step_ms(len(batch), tokens))
            self.running = 0
            self._finish(batch, loop.time() - began)

    def _take(self) -> tuple[list[EncoderCall], int]:
        batch: list[EncoderCall] = []
        total = 0
        while self.waiting:
            call, tokens = self.waiting[0]
            if not call.aborted:
                if batch and (
                    total + tokens > self._max_batch_tokens or (self._serial and call is not batch[0])
                ):
                    break
                batch.append(call)
                total += tokens
            self.waiting.popleft()
        return batch, total

    def _finish(self, batch: list[EncoderCall], seconds: float) -> None:
        for call in dict.fromkeys(batch):
            call.ran_s += seconds
        for call in batch:
            call.left -= 1
            if call.left == 0 and not call.finished.done():
                call.finished.set_result(None)
