"""Ids that callers gave their requests: no engine gets two requests of one id at the same time.

An engine that keys its work by the id, as vLLM does, fails the second request, or mixes the two up. A caller that
repeats its request after a timeout sends the same id again, while the engine still works on the first request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.types import SchedulingRequest

LINGER_S = 5.0  # an engine may work so long on a request that was given up


class IdentifiedRequest(Protocol):
    """A request with the id that its caller gave it."""

    head: RequestHead
    request: SchedulingRequest
    request_id: bytes


class RequestIds:
    """The ids that are in use. Only requests whose caller gave an id are registered.

    ``new_id`` makes ids, all of which begin with ``begin``. ``call_later`` is the event loop's.
    """

    def __init__(self, begin: bytes, new_id: Callable[[], bytes], call_later: Callable[..., object]) -> None:
        self._begin = begin
        self._new_id = new_id
        self._call_later = call_later
        self._used: dict[bytes, IdentifiedRequest | None] = {}  # None for a request that was given up

    def take(self, exchange: IdentifiedRequest) -> None:
        """Give a classified request another id for its engine if its id is in use. Its caller gets its own id back."""
        given = exchange.request_id
        # An id that looks like the gateway's own is, or will be, that of another request.
        if not given.startswith(self._begin) and self._used.setdefault(given, exchange) is exchange:
            return
        exchange.request_id = own = self._new_id()
        exchange.request.request_id = own.decode()
        exchange.request.caller_request_id = given.decode("latin-1")

    def give_back(self, exchange: IdentifiedRequest, *, answered: bool) -> None:
        """Free the id of a request that ended: at once if it was ``answered``, otherwise after ``LINGER_S``."""
        given = exchange.head.request_id
        if self._used.get(given) is not exchange:
            return
        if answered:
            del self._used[given]
        else:
            self._used[given] = None
            self._call_later(LINGER_S, self._used.pop, given, None)
