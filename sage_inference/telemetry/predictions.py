"""Predicted times to a first token against the real ones, from the record of decisions.

A prediction is the price of a document, so only some attempts are compared each second, on a quiet machine all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sage_inference.control_plane.instances.load import Placement
from sage_inference.telemetry.decisions.document import predicted
from sage_inference.telemetry.exposition import Histogram

A_SECOND = 32  # attempts; one costs some 30 us
MOST_INSTANCES = 256
_RATIOS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)


class Predictions:
    """``ratios`` by instance: real time divided by predicted time."""

    def __init__(self, newest: Callable[[], Iterable[Placement]]) -> None:
        self._newest = newest
        self._seen_until = 0.0  # the end of the last attempt that was looked at
        self.ratios: dict[str, Histogram] = {}

    def tick(self) -> None:
        """Compare attempts that ended since the last call. Has to be called about once a second."""
        ended = [
            each
            for each in self._newest()
            if each.ended_at is not None and each.ended_at > self._seen_until and each.request.streams
        ]
        if not ended:
            return
        self._seen_until = max(each.ended_at or 0.0 for each in ended)
        for attempt in ended[:: max(1, -(-len(ended) // A_SECOND))]:
            self._compare(attempt)

    def _compare(self, attempt: Placement) -> None:
        _, predicted_ms = predicted(attempt)
        if attempt.answered_at is None or not predicted_ms:
            return
        name = attempt.instance.instance_id
        found = self.ratios.get(name)
        if found is None:
            if len(self.ratios) >= MOST_INSTANCES:
                return
            found = self.ratios[name] = Histogram(_RATIOS)
        found.observe((attempt.answered_at - attempt.pushed_at) * 1000 / predicted_ms)
