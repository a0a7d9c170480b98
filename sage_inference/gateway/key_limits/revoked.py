"""The requests of a key that was taken out of the configuration.

A request that still waits, or whose body is still on its way, is answered with 401. An answer that an engine was asked
for goes on to its end, because the replacement of a key must break no answer; then its connection is closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.guard import Guard
from sage_inference.gateway.relay.heads import RequestHead


class RevocableRequest(Protocol):
    """A request, as far as its key matters."""

    head: RequestHead
    keep_alive: bool
    response_complete: bool

    def turn_away(self, error: ApiError) -> None: ...


_UNAUTHORIZED = 401


def end_waiting(connections: Iterable[object], guard: Guard) -> None:
    """End the requests that wait, and whose key ``guard`` does not know."""
    for connection in list(connections):
        running: RevocableRequest | None = getattr(connection, "running", None)
        if running is None or running.response_complete:
            continue
        try:
            guard.check(running.head.route.path, running.head.headers)
        except ApiError as error:
            if error.status == _UNAUTHORIZED:
                running.keep_alive = False
                running.turn_away(replace(error, close=True))
