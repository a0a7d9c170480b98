"""TEI's metrics with its names and buckets. Its names have no ``_total`` and no ``_seconds``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sage_inference.simulator.metrics import Histogram, Page

CONTENT_TYPE = b"text/plain"
_DURATIONS = tuple(1.5e-5 * 1.5**power for power in range(35))
_SIZES = tuple(float(2**power) for power in range(15))


@dataclass(frozen=True, slots=True)
class Spent:
    """The seconds of a call and of its parts."""

    total: float
    tokenization: float
    queue: float
    inference: float


class TEIMetrics:
    def __init__(self, waiting: Callable[[], int]) -> None:
        self.page = page = Page({})
        self.requests: Counter[str] = Counter()
        self.successes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.work: Counter[str] = Counter()
        self.work_successes: Counter[str] = Counter()
        for name, counts, label in (
            ("te_request_count", self.requests, "method"),
            ("te_request_success", self.successes, "method"),
            ("te_request_failure", self.failures, "err"),
        ):
            page.numbers("counter", name, name, _by(counts, label))
        for kind in ("embed", "predict"):
            page.number("counter", f"te_{kind}_count", f"te_{kind}_count", _one(self.work, kind))
            page.number(
                "counter", f"te_{kind}_success", f"te_{kind}_success", _one(self.work_successes, kind)
            )
        page.number("gauge", "te_queue_size", "Texts that wait", waiting)
        self._spent = {kind: self._durations(kind) for kind in ("request", "embed", "predict")}
        self.input_length = page.histogram("te_request_input_length", "Tokens a text", _SIZES)
        self._batch_size = page.histogram("te_batch_next_size", "Texts a batch", _SIZES)
        self._batch_tokens = page.histogram("te_batch_next_tokens", "Tokens a batch", _SIZES)

    def batch(self, texts: int, tokens: int) -> None:
        self._batch_size.observe(texts)
        self._batch_tokens.observe(tokens)

    def spent(self, kind: str, times: Spent) -> None:
        """Observe times. ``kind`` is ``request`` (all of it), ``embed`` or ``predict`` (the texts)."""
        for histogram, seconds in zip(
            self._spent[kind], (times.total, times.tokenization, times.queue, times.inference), strict=True
        ):
            histogram.observe(seconds)

    def _durations(self, kind: str) -> list[Histogram]:
        names = ("duration", "tokenization_duration", "queue_duration", "inference_duration")
        return [self.page.histogram(f"te_{kind}_{name}", f"te_{kind}_{name}", _DURATIONS) for name in names]


def _by(counts: Counter[str], label: str) -> Callable[[], list[tuple[dict[str, str], float]]]:
    return lambda: [({label: key}, value) for key, value in counts.items()]


def _one(counts: Counter[str], key: str) -> Callable[[], float]:
    return lambda: counts[key]
