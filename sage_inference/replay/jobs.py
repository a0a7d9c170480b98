"""Requests to replay: their times and sizes, never their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sage_inference.types import RequestPriority, RequestType


@dataclass(frozen=True, slots=True)
class Job:
    """One request. ``blocks`` are ids of its prompt's full blocks: equal ids from the first on mean an equal prefix.

    Without ``streams`` the scheduler sees the answer's first byte only with the last. A job that ``follows`` another, by
    its place in the workload, is submitted ``think_ms`` after that one has ended, and not at ``at_ms``.
    """

    at_ms: float
    prompt: int
    output: int
    blocks: Sequence[int] = ()
    request_type: RequestType = RequestType.LLM_CHAT
    priority: RequestPriority = RequestPriority.NORMAL
    tenant: str = ""
    deadline_ms: float | None = None
    streams: bool = True
    model: str = ""  # decides the SLO; all engines serve all models
    follows: int | None = None
    think_ms: float = 0.0


class WorkloadError(Exception):
    """A file cannot be replayed. The message names the place and the reason."""


@dataclass(slots=True)
class Outcome:
    """The outcome of a job. Times are milliseconds from the start; None if the event did not happen.

    ``first_ms`` is the time at which the engine had the first token, even if the answer is not streamed.
    """

    job: Job
    instance: str | None = None
    placed_ms: float | None = None
    first_ms: float | None = None
    end_ms: float | None = None
    cached: int = 0
    refused: str | None = None
    place: int = -1  # of its job in the workload, if others may follow it

    @property
    def ttft_ms(self) -> float | None:
        return None if self.first_ms is None else self.first_ms - self.job.at_ms

    @property
    def tpot_ms(self) -> float | None:
        """Mean time of an output token after the first; None if there is only one."""
        if self.end_ms is None or self.first_ms is None or self.job.output < 2:
            return None
        return (self.end_ms - self.first_ms) / (self.job.output - 1)

    @property
    def e2e_ms(self) -> float | None:
        return None if self.end_ms is None else self.end_ms - self.job.at_ms
