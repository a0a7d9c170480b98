"""Counts, by their ends, the requests that are under way when the gateway begins to stop."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from sage_inference.gateway.relay.phase import FINAL, Phase
from sage_inference.types import SchedulingRequest

log = logging.getLogger("sage_inference.server")


class RelayedRequest(Protocol):
    phase: Phase
    status: int
    request: SchedulingRequest


class Connection(Protocol):
    """A caller's connection, with the request that is under way on it."""

    @property
    def running(self) -> RelayedRequest | None: ...


@dataclass(frozen=True, slots=True)
class RequestEnds:
    """Counts of relayed requests that were under way at a stop, by their ends.

    ``failed``: cut off at the end of the drain time, broken off by the engine, or answered with a 5xx. ``left``: the
    caller closed its connection. ``streams``: those of all that asked for a stream, ``failed_streams`` those of ``failed``.
    """

    finished: int = 0
    failed: int = 0
    left: int = 0
    streams: int = 0
    failed_streams: int = 0

    @property
    def total(self) -> int:
        return self.finished + self.failed + self.left


class LastRequests:
    """Keeps the requests that are under way now, to count their ends later."""

    def __init__(self, connections: Collection[Connection]) -> None:
        self._connections = connections
        self._noted = _under_way(connections)

    def ends(self) -> RequestEnds:
        """Count them and log the counts, when the drain is over and before connections are broken off.

        Requests that came after the first look, and are still under way, are cut off like the others.
        """
        requests = self._noted | _under_way(self._connections)
        left = {each for each in requests if each.phase is Phase.CANCELLED}
        failed = {each for each in requests - left if each.phase is not Phase.DONE or each.status >= 500}
        ends = RequestEnds(
            finished=len(requests) - len(left) - len(failed),
            failed=len(failed),
            left=len(left),
            streams=sum(map(_streams, requests)),
            failed_streams=sum(map(_streams, failed)),
        )
        if ends.total:
            log.log(
                logging.WARNING if ends.failed else logging.INFO,
                "requests under way at the stop: %d (streams: %d); finished: %d, failed or cut off: %d (streams: %d), "
                "left by their callers: %d",
                *(ends.total, ends.streams, ends.finished, ends.failed, ends.failed_streams, ends.left),
            )
        return ends


def _under_way(connections: Collection[Connection]) -> set[RelayedRequest]:
    running = (each.running for each in connections)
    return {each for each in running if each is not None and not FINAL[each.phase]}


def _streams(exchange: RelayedRequest) -> bool:
    # A request has none until its body is read.
    request: SchedulingRequest | None = getattr(exchange, "request", None)
    return request is not None and request.streams
