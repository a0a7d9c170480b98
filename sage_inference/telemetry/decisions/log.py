"""The decision record: which instance a request was sent to, among which, and what came of it.

Sizes, hashes and times; never a text. The manager's own notes of an attempt are kept as they are: they become
costs and words (see ``decision_document``) when somebody asks.
"""

from __future__ import annotations

from collections import deque

from sage_inference.control_plane.instances.load import Placement

KEPT = 1024  # attempts, the newest: many more would push what requests need out of the processor's cache


class DecisionLog:
    """Keeps the newest attempts, from their begin on."""

    def __init__(self, kept: int = KEPT) -> None:
        self._attempts: deque[Placement] = deque(maxlen=kept)
        self.add = self._attempts.append  # called for every request: not a frame of ours

    def of(self, request_id: str) -> list[Placement]:
        """The attempts of a request that are still kept, in their order. By the caller's id, or by the engine's.

        Requests that had one caller's id at the same time are all among them.
        """
        return [attempt for attempt in self._attempts if _is_called(attempt, request_id)]

    def __len__(self) -> int:
        return len(self._attempts)


def _is_called(attempt: Placement, request_id: str) -> bool:
    request = attempt.request
    return request_id in (request.request_id, request.caller_request_id or None)
