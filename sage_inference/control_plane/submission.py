"""A request on its way, as the manager sees it."""

from __future__ import annotations

from typing import Any, Protocol

from sage_inference.requests.rejection import Rejection
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest


class Submission(Protocol):
    """It is told where to go, and reports back. ``load`` is the manager's own, None at first."""

    request: SchedulingRequest
    size: int  # bytes it holds while it waits
    load: Any

    @property
    def tried(self) -> tuple[ExecutionInstance, ...]:
        """Where it already failed, or must not go."""

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None: ...

    def refused(self, refusal: Rejection) -> None: ...
