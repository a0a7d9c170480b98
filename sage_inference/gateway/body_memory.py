"""The bytes of request bodies that are held at once: from their arrival until their answers begin."""

from __future__ import annotations

from collections.abc import Hashable

from sage_inference.gateway import errors

# Smaller bodies are not counted. Therefore a request for the status or a short chat is accepted when the limit is
# reached, and the hot path does not come here.
COUNTED = 65536


class Bodies:
    """Bytes held by requests with bodies above ``COUNTED``. ``most`` is the peak since it was last reset."""

    __slots__ = ("_by_request", "held", "most")

    def __init__(self) -> None:
        self.held = self.most = 0
        self._by_request: dict[Hashable, int] = {}

    def count(self, request: Hashable, size: int, limit: int) -> None:
        """Set the request's held bytes to ``size``. Raises ``ApiError`` where all bodies would exceed ``limit``."""
        held = self.held + size - self._by_request.get(request, 0)
        if held > limit:
            raise errors.bodies_full(limit)
        self._by_request[request] = size
        self.held = held
        if held > self.most:
            self.most = held

    def drop(self, request: Hashable) -> None:
        """Set the request's held bytes to 0. It need not have any."""
        self.held -= self._by_request.pop(request, 0)
