"""The requests that the simulated engine received: the last ones with all bytes, counts, and waits for counts."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from sage_inference.simulator.exchange import Request

_KEPT_REQUESTS = 512
_KEPT_BYTES = 256 * 1024 * 1024


class Records:
    """Requests for work (POST) are counted apart from probes (all others)."""

    def __init__(self, more: Callable[[], Mapping[str, float]]) -> None:
        self.answered = 0
        self.disconnects = 0
        self.running = 0
        self.probes = 0
        self.by_route: Counter[str] = Counter()
        self.by_status: Counter[str] = Counter()
        self._more = more
        self._last: deque[Request] = deque()
        self._bytes = 0
        self._last_probes: deque[Request] = deque(maxlen=64)
        self._changed = asyncio.Event()
        self._watched = 0

    @property
    def requests(self) -> int:
        return self.by_route.total()

    def arrived(self, request: Request) -> None:
        if request.method != "POST":
            self.probes += 1
            self._last_probes.append(request)
            return
        self.by_route[request.path] += 1
        self.running += 1
        self._last.append(request)
        self._bytes += len(request.body)
        while len(self._last) > _KEPT_REQUESTS or self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._last.popleft().body)
        self.changed()

    def ended(self, request: Request, status: int) -> None:
        """Count a reply that is complete, or was cut by a fault (status 0 if before its head)."""
        if request.method == "POST":
            self.running -= 1
            self.answered += 1
            self.by_status[str(status)] += 1
            self.changed()

    def left(self, request: Request) -> None:
        """Count a client that left before its reply was complete."""
        if request.method == "POST":
            self.running -= 1
            self.disconnects += 1
            self.changed()

    def changed(self) -> None:
        if self._watched:
            self._changed.set()

    def stats(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "answered": self.answered,
            "disconnects": self.disconnects,
            "cancelled": self.disconnects,
            "running": self.running,
            "probes": self.probes,
            **self._more(),
            "by_route": dict(self.by_route),
            "by_status": dict(self.by_status),
        }

    def last(self, count: int, route: str | None, *, probes: bool) -> list[dict[str, Any]]:
        """The newest ``count`` requests, the oldest of them first."""
        kept = [one for one in (self._last_probes if probes else self._last) if route in (None, one.path)]
        return [_as_json(one) for one in kept[-count:]] if count > 0 else []

    async def reached(self, wanted: Mapping[str, float], timeout_s: float) -> bool:
        """Wait until each figure is at least the wanted one. A wanted 0 means exactly 0."""
        self._watched += 1
        try:
            async with asyncio.timeout(timeout_s):
                while not self._all_there(wanted):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        finally:
            self._watched -= 1
        return True

    def _all_there(self, wanted: Mapping[str, float]) -> bool:
        stats = self.stats()
        return all(stats[key] >= value if value else stats[key] == 0 for key, value in wanted.items())


def _as_json(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.path,
        "query": request.query_string.decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
        "body": b64encode(request.body).decode("ascii"),
    }
