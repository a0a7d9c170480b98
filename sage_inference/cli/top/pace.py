"""Which of the documents, one a second, are shown."""

from __future__ import annotations

EACH_S = 1.0  # the gateway makes one a second


class Pacing:
    """Lets one document through in each ``every_s`` seconds."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next: float | None = None

    def is_due(self, now: float) -> bool:
        # Half a second of tolerance: a document that comes a little early must not cost a whole second.
        if self._next is not None and now < self._next - EACH_S / 2:
            return False
        self._next = now + self._every_s
        return True
