"""The outcome of a measurement, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from sage_inference.bench.exchange import Kind
from sage_inference.bench.samples import LatencySummary, summary
from sage_inference.bench.slo import SloLimits
from sage_inference.bench.tally import Failures, Tally
from sage_inference.bench.waits import WaitFigures, waiting
from sage_inference.bench.window import Window


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of the requests of one kind, or of all. Latencies count from when a request was due, in ms.

    Requests that were due in the warm-up count for the rates and ``waiting`` only.
    """

    sent: int
    ok: int
    failed: int
    abandoned: int
    errors: dict[str, Failures]
    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    chunks_per_s: float
    ttft: LatencySummary | None
    tpot: LatencySummary | None
    inter_chunk: LatencySummary | None
    e2e: LatencySummary | None
    good: int | None  # answers that met the SLO; None without one
    good_per_s: float | None
    waiting: WaitFigures

    @classmethod
    def of(cls, tally: Tally, window: Window, slo: SloLimits) -> Figures:
        seconds = window.seconds
        return cls(
            sent=tally.sent,
            ok=tally.ok,
            failed=tally.failed,
            abandoned=tally.abandoned,
            errors=dict(sorted(tally.errors.items(), key=lambda item: -item[1].count)),
            requests_per_s=tally.completed / seconds,
            prompt_tokens_per_s=tally.prompt_tokens / seconds,
            output_tokens_per_s=tally.output_tokens / seconds,
            chunks_per_s=tally.chunks / seconds,
            ttft=summary(tally.ttft),
            tpot=summary(tally.tpot),
            inter_chunk=summary(tally.gaps),
            e2e=summary(tally.e2e),
            good=tally.good if slo else None,
            good_per_s=tally.completed_good / seconds if slo else None,
            waiting=waiting(tally.waits, window),
        )

    @property
    def good_share(self) -> float | None:
        """The share of good answers in all requests that were not broken off. None without an SLO or a request."""
        judged = self.ok + self.failed
        return None if self.good is None or not judged else self.good / judged


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The rates of the generator with the same requests and a server that does nothing."""

    concurrency: int
    requests_per_s: float
    chunks_per_s: float
    cpu: float  # share of a core that it used; well below 1, the machine was the limit and not the generator


@dataclass(frozen=True, slots=True)
class Own:
    """Figures of the generator itself."""

    cpu: float
    lag: LatencySummary | None  # of its event loop
    late: LatencySummary | None  # of requests in an open loop; None in a closed one
    waited: int  # requests that had to wait, because all allowed connections were in use
    connections: int
    ceiling: Ceiling | None
    reasons: tuple[str, ...] = ()  # to doubt that the figures are the server's


@dataclass(frozen=True, slots=True)
class Report:
    url: str
    models: dict[Kind, str]
    seconds: float
    interrupted: bool
    total: Figures
    kinds: dict[Kind, Figures]
    own: Own
    warnings: tuple[
        str, ...
    ] = ()  # of callers that the server let wait, and of a measured time too short to see it
