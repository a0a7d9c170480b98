"""The decision record: the instance that each attempt was sent to, the candidates, and the outcome.

The record has sizes, hashes and times, never a text. It keeps the scheduler's placements as they are. They become costs
and words, see ``document``, when they are asked for.
"""

from __future__ import annotations

from collections import deque

from sage_inference.control_plane.instances.load import Placement

KEPT = 1024  # of the newest attempts; many more would evict the data of requests from the processor's cache


class DecisionLog:
    """Keeps the newest attempts, from their begin on."""

    def __init__(self, kept: int = KEPT) -> None:
        self._attempts: deque[Placement] = deque(maxlen=kept)
        self.add = self._attempts.append  # called for every request, without a Python frame

    def of(self, request_id: str) -> list[Placement]:
        """The attempts of a request that are still kept, in order, by the caller's id or by the engine's.

        Requests that had one caller's id at the same time are all among them.
        """
        return [attempt for attempt in self._attempts if _is_called(attempt, request_id)]

    def newest(self) -> list[Placement]:
        """The attempts that are kept, in order of their begin. One may still run."""
        return list(self._attempts)

    def __len__(self) -> int:
        return len(self._attempts)


def _is_called(attempt: Placement, request_id: str) -> bool:
    request = attempt.request
    return request_id in (request.request_id, request.caller_request_id or None)
