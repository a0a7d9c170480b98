"""``/admin/live`` and ``/admin/requests``: what happens now, as a stream and as a list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sage_inference.gateway.api.admin import bounded
from sage_inference.gateway.errors import ApiError, retry_after
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.guard import credentials
from sage_inference.gateway.live.feed import MOST_VIEWERS, LiveFeed
from sage_inference.gateway.live.requests import ended_after, number_of, row
from sage_inference.telemetry import refusals
from sage_inference.telemetry.decisions import log as decisions
from sage_inference.telemetry.decisions.recorder import wall_offset

MOST_LISTED = decisions.KEPT + refusals.KEPT  # all that there are
_LISTED = 100
_UNREAD_S = 60.0  # a viewer that takes nothing for so long is gone
_LARGEST = 1 << 62


class EventStream(Response):
    """The events of the feed, until its end or until the viewer leaves."""

    def __init__(self, feed: LiveFeed, may_watch: Callable[[], bool]) -> None:
        """``may_watch``: whether the viewer's key or session still gives the right to watch."""
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"
        self._feed = feed
        self._may_watch = may_watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        events = asyncio.create_task(self._send_events(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((events, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (events, leaving):
                task.cancel()
            await asyncio.gather(events, leaving, return_exceptions=True)

    async def _send_events(self, send: Send) -> None:
        async for event in self._feed.watch():
            if not self._may_watch():
                break
            async with asyncio.timeout(_UNREAD_S):
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def live(request: Request) -> Response:
    feed: LiveFeed = request.app.state.feed
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    if feed.is_full:
        message = f"{MOST_VIEWERS} viewers watch already; close a page, or read GET /admin/status"
        raise ApiError(503, message, "service_unavailable", "too_many_viewers", headers=retry_after(5))
    gateway: Gateway = request.app.state.gateway
    shown = credentials(request.scope["headers"])
    return EventStream(feed, lambda: any(map(gateway.guard.is_admin, shown)))


async def list_requests(request: Request) -> Response:
    """The attempts and refusals that ended after ``after``, oldest first; without it the newest ones."""
    gateway: Gateway = request.app.state.gateway
    limit = _number(request, "limit", _LISTED, MOST_LISTED)
    after = _number(request, "after", -1, _LARGEST)
    attempts, epoch = [*gateway.decisions.newest(), *gateway.stats.refusals], wall_offset()
    if after >= 0:
        ended = ended_after(attempts, after, limit)
    else:
        found = ended_after(attempts, -1)
        ended = found[len(found) - min(limit, len(found)) :]
    last = ended[-1].ended_at if ended else None
    return JSONResponse(
        {
            "schema": 1,
            "last": max(after, 0) if last is None else number_of(last),
            "ended": gateway.scheduler.rates.finished + gateway.stats.refusals.total,
            "requests": [row(each, epoch) for each in ended],
        }
    )


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise ApiError(400, f"'{name}' must be a whole number from 0 to {most}", param=name)
    return int(text)


routes = [
    Route("/admin/live", bounded(live)),
    Route("/admin/requests", bounded(list_requests)),
]
