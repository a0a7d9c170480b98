"""The stream of live documents: made once a second for all viewers together, and only while somebody watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from sage_inference.control_plane.instances.load import Placement
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.live.document import LiveDocument
from sage_inference.gateway.live.requests import ended_after, number_of, row
from sage_inference.gateway.managed.engine_set import ManagedEngines
from sage_inference.telemetry.decisions.recorder import wall_offset
from sage_inference.telemetry.refusals import Refusal
from sage_inference.wire.isolation import report

MOST_VIEWERS = 64
# Requests that one second shows. Nobody can read more, and GET /admin/requests has the others.
MOST_EVENTS, MOST_REFUSED = 50, 20  # refused ones apart, so that a flood of them hides no other
PERIOD_S = 1.0


class LiveFeed:
    """Viewers of one gateway. All of them get the same bytes.

    A viewer that reads slowly gets the newest document next, and misses those between. So nothing is buffered for a
    viewer but what its connection has not sent yet.
    """

    def __init__(self, gateway: Gateway, engines: ManagedEngines | None) -> None:
        self._gateway = gateway
        self._document = LiveDocument(gateway, engines)
        self._state = b""  # the newest document, as an event
        self._message = b""  # the same, after the requests that ended since the document before
        self._changed = asyncio.Event()  # set when there is a newer document, and then replaced
        self._seen = 0  # the number of the last request that was shown
        self.viewers = 0
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def is_full(self) -> bool:
        return self.viewers >= MOST_VIEWERS

    @property
    def is_working(self) -> bool:
        return self._task is not None

    async def watch(self) -> AsyncIterator[bytes]:
        """Server-sent events: the state at once, and then each second, until the gateway ends."""
        self.viewers += 1
        try:
            if self._task is None and not self._ended:
                self._begin()
            if not self._ended:
                yield self._state
            while not self._ended:
                await self._changed.wait()
                if not self._ended:
                    yield self._message
            yield _event("end", {"reason": "the gateway stops"})
        finally:
            self.viewers -= 1
            if not self.viewers and self._task is not None:
                self._task.cancel()
                self._task = None

    def close(self) -> None:
        """End all streams, because the gateway stops."""
        self._ended = True
        self._changed.set()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _begin(self) -> None:
        self._seen = number_of(self._gateway.clock())
        self._make()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                self._make()
            except Exception as error:
                report(error, "the live document")

    def _make(self) -> None:
        """Make the next document, and wake the viewers."""
        document = self._document.make()
        attempts = ended_after(self._gateway.decisions.newest(), self._seen)
        refused = ended_after(self._gateway.stats.refusals, self._seen)
        document["ended"] = len(attempts) + len(refused)
        rows: list[Placement | Refusal] = [*attempts[-MOST_EVENTS:], *refused[-MOST_REFUSED:]]
        shown = ended_after(rows, self._seen)
        epoch = wall_offset()
        events = [_event("request", row(each, epoch)) for each in shown]
        if shown and shown[-1].ended_at is not None:
            self._seen = number_of(shown[-1].ended_at)
        self._state = _event("state", document)
        self._message = b"".join([*events, self._state])
        self._changed.set()
        self._changed = asyncio.Event()


def _event(name: str, document: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(document))
