"""The decision record: which instance a request was sent to, among which, and what came of it.

Sizes, hashes and times; never a text. On the hot path figures are only noted down: they become costs and words
(see ``decision_document``) when somebody asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from sage_inference.types import ExecutionInstance, RequestMetadata, SchedulingDecision, Usage

KEPT = 2048  # attempts, the newest

# An instance when it could have been chosen: itself, requests in flight, prompt tokens not yet begun, when it
# last got on, milliseconds a token.
Seen = tuple[ExecutionInstance, int, int, float, float]


class Asked(Protocol):
    request: RequestMetadata


class Attempt:
    """One sending of a request; times are the manager's. None is what did not happen (yet)."""

    __slots__ = ("answered_at", "at", "decision", "ended_at", "outcome", "request", "seen", "status", "usage")

    def __init__(
        self, request: RequestMetadata, decision: SchedulingDecision, at: float, seen: list[Seen]
    ) -> None:
        self.request = request
        self.decision = decision
        self.at = at
        self.seen = seen
        self.answered_at: float | None = None
        self.ended_at: float | None = None
        self.outcome: str | None = None
        self.status: int | None = None
        self.usage: Usage | None = None


class DecisionLog:
    """Keeps the newest attempts. ``on_end`` is handed each that ended, if there is one."""

    def __init__(self, kept: int = KEPT) -> None:
        self.on_end: Callable[[Attempt], None] | None = None
        self._attempts: deque[Attempt] = deque(maxlen=kept)

    def placed(
        self, ticket: Asked, decision: SchedulingDecision, group: Sequence[ExecutionInstance], now: float
    ) -> Attempt:
        """To be called before the request counts as load."""
        seen = [
            (i, i.active_requests, (load := i.load).pending_tokens, load.progress_at, load.ms_per_token)
            for i in group
        ]
        attempt = Attempt(ticket.request, decision, now, seen)
        self._attempts.append(attempt)
        return attempt

    def close(
        self,
        attempt: Attempt,
        answered_at: float | None,
        now: float,
        outcome: str,
        status: int,
        usage: Usage | None,
    ) -> None:
        """The attempt ended."""
        attempt.answered_at = answered_at
        attempt.ended_at = now
        attempt.outcome = outcome
        attempt.status = status
        attempt.usage = usage
        if self.on_end is not None:
            self.on_end(attempt)

    def of(self, request_id: str) -> list[Attempt]:
        """The attempts of a request that are still kept, in their order."""
        return [attempt for attempt in self._attempts if attempt.request.request_id == request_id]

    def __len__(self) -> int:
        return len(self._attempts)
