"""Runs a TEI call: permits, lengths, the queue, and the headers that report its times."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sage_inference.simulator import tokens
from sage_inference.simulator.encoder import Encoder
from sage_inference.simulator.tei.errors import TEIError
from sage_inference.simulator.tei.metrics import Spent, TEIMetrics

_SPECIAL = 2  # tokens around each text


@dataclass(frozen=True, slots=True)
class TEILimits:
    max_client_batch_size: int = 32
    max_concurrent_requests: int = 512
    max_batch_tokens: int = 16384
    max_input_length: int = 512
    payload_limit: int = 2_000_000


@dataclass(frozen=True, slots=True)
class Done:
    """The outcome of a call: its texts and the headers of its answer. ``tokens`` is a number per text."""

    texts: list[str]
    tokens: list[int]
    headers: list[tuple[bytes, bytes]]


class Worker:
    def __init__(
        self, limits: TEILimits, encoder: Encoder, metrics: TEIMetrics, *, auto_truncate: bool
    ) -> None:
        self._limits = limits
        self._encoder = encoder
        self._metrics = metrics
        self._auto_truncate = auto_truncate
        self._taken = 0

    async def run(
        self,
        kind: str,
        texts: Sequence[str],
        *,
        truncate: bool | None = None,
        left: bool = False,
        permits: int = 0,
    ) -> Done:
        """Run ``texts`` through the model. Raises ``TEIError``; one bad text fails all of them.

        ``truncate`` None means the server's setting. ``left`` cuts from the beginning. A pair of texts is one
        text here.
        """
        began = time.monotonic()
        self._check_batch(len(texts))
        method = "batch" if len(texts) > 1 else "single"
        self._metrics.requests[method] += 1
        with self._permits(permits or len(texts)):
            cut = self._auto_truncate if truncate is None else truncate
            fitted = [self._fitted(text, cut, left) for text in texts]
            counts = [len(parts) + _SPECIAL for parts in fitted]
            tokenized = time.monotonic()
            self._metrics.work[kind] += len(texts)
            call = await self._encoder.encode(counts)
        now = time.monotonic()
        times = Spent(now - began, tokenized - began, call.queued_s, call.ran_s)
        self._count(kind, method, counts, times)
        return Done(["".join(parts) for parts in fitted], counts, _headers(texts, counts, times))

    def _check_batch(self, size: int) -> None:
        most = self._limits.max_client_batch_size
        if size > most:
            self._metrics.failures["batch_size"] += 1
            raise TEIError("Validation", f"batch size {size} > maximum allowed batch size {most}")

    @contextmanager
    def _permits(self, count: int) -> Iterator[None]:
        """One permit per text. A call that cannot have all of them at once gets none."""
        if self._taken + count > self._limits.max_concurrent_requests:
            self._metrics.failures["overloaded"] += 1
            raise TEIError("Overloaded", "Model is overloaded")
        self._taken += count
        try:
            yield
        finally:
            self._taken -= count

    def _fitted(self, text: str, cut: bool, left: bool) -> list[str]:
        most = self._limits.max_input_length
        if not cut and len(text) > most * tokens.MAX_PIECE_CHARS:
            self._refuse_length(f"{most * tokens.MAX_PIECE_CHARS} characters", len(text))
        parts = tokens.pieces(text)
        length = len(parts) + _SPECIAL
        if length <= most:
            return parts
        if not cut:
            self._refuse_length(f"{most} tokens", length)
        room = most - _SPECIAL
        return parts[-room:] if left else parts[:room]

    def _refuse_length(self, most: str, given: int) -> None:
        self._metrics.failures["validation"] += 1
        message = f"Input validation error: `inputs` must have less than {most}. Given: {given}"
        raise TEIError("Validation", message)

    def _count(self, kind: str, method: str, counts: Sequence[int], times: Spent) -> None:
        metrics = self._metrics
        metrics.successes[method] += 1
        metrics.work_successes[kind] += len(counts)
        for count in counts:
            metrics.input_length.observe(count)
        metrics.spent("request", times)
        metrics.spent(kind, times)


def _headers(texts: Sequence[str], counts: Sequence[int], times: Spent) -> list[tuple[bytes, bytes]]:
    values = {
        b"x-compute-time": _ms(times.total),
        b"x-compute-characters": sum(map(len, texts)),
        b"x-compute-tokens": sum(counts),
        b"x-total-time": _ms(times.total),
        b"x-tokenization-time": _ms(times.tokenization),
        b"x-queue-time": _ms(times.queue),
        b"x-inference-time": _ms(times.inference),
    }
    numbers = [(name, b"%d" % value) for name, value in values.items()]
    return [(b"x-compute-type", b"gpu+optimized"), *numbers]


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
