"""Sticky until saturated: the instance that holds the prompt, unless it is much busier than the others."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sage_inference.control_plane.load import DECODE_TOKENS
from sage_inference.control_plane.policies.base import Clock, Loads
from sage_inference.control_plane.policies.cost import backlog_ms, cost_ms
from sage_inference.types import ExecutionInstance, RequestMetadata, SchedulingDecision

WORTH = 0.3  # of a prompt cached somewhere makes it worth going there
NEARLY = 0.8  # of the longest cached part is as good as the longest
CROWD, SPARE = 1.5, 8  # times the mean of requests in flight, and some more
LATER_MS = 4000.0  # a backlog longer than the shortest by this is saturated


INFINITE = float("inf")

_Row = tuple[float, int, int, float, str]  # cost, cached tokens, requests in flight, backlog, id


class Hybrid:
    """Place where the prompt is cached while that instance can bear it, else where it costs least.

    c = B + k·(n − h) + k·267·nin. If h reaches 0.3·n somewhere, the cheapest instance wins among those with
    h ≥ 0.8·max h, nin ≤ 1.5·mean + 8 and B within 4 s of the least; else the cheapest of all. Always taking
    the cheapest copies large shared prefixes to every instance near saturation, until nothing fits.
    """

    name = "hybrid"
    sticky = True

    def __init__(self, clock: Clock = time.monotonic, order: str = "adaptive") -> None:
        self.order = order
        self._clock = clock
        self._turn = 0

    def schedule(
        self, requests: Sequence[RequestMetadata], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        if len(requests) == 1:
            chosen, why = self._one(requests[0], instances)
            return [] if chosen is None else [SchedulingDecision(requests[0].request_id, chosen, why)]
        loads = Loads(instances)
        now = self._clock()
        decisions = []
        for request in requests:
            room = loads.open()
            if not room:
                break
            warm = self._warm(request, room, now, loads)
            chosen_from, why = (warm, "cached there") if warm else (room, "cheapest")
            best = min(chosen_from, key=lambda i: cost_ms(request, i, now, loads))  # noqa: B023
            decisions.append(loads.place(request, best, why))
        return decisions

    def _one(
        self, request: RequestMetadata, instances: Sequence[ExecutionInstance]
    ) -> tuple[str | None, str]:
        """The same for one request, in one pass: this is asked of every request."""
        now = self._clock()
        tokens, cached = request.prompt_tokens, request.cached_tokens
        chosen, least = None, INFINITE
        worth = WORTH * tokens
        rows: list[_Row] = []  # of those that hold something
        soonest, running_sum, room = INFINITE, 0, 0
        self._turn = turn = self._turn + 1
        ties = 1
        for i in instances:
            load, running, limit = i.load, i.active_requests, i.max_concurrent_requests
            if limit and running >= limit:
                continue
            k = load.ms_per_token
            backlog = 0.0
            if load.pending_tokens:
                backlog = k * load.pending_tokens - (now - load.progress_at) * 1000
                if backlog < 0.0:
                    backlog = 0.0
            cost = backlog + k * (tokens + DECODE_TOKENS * running)
            if cached:
                held = cached.get(i, 0)
                cost -= k * held
                running_sum += running
                room += 1
                if backlog < soonest:
                    soonest = backlog
                if held and held >= worth:
                    rows.append((cost, held, running, backlog, i.instance_id))
            if cost < least:
                chosen, least, ties = i.instance_id, cost, 1
            elif cost == least:
                # Equal costs go round: idle instances share the work, and different prompts their caches.
                ties += 1
                if not turn % ties:
                    chosen = i.instance_id
        if rows:
            warm = _cheapest_warm(rows, CROWD * running_sum / room + SPARE, soonest + LATER_MS)
            if warm is not None:
                return warm, "cached there"
        return chosen, "cheapest"

    def _warm(
        self, request: RequestMetadata, room: list[ExecutionInstance], now: float, loads: Loads
    ) -> list[ExecutionInstance]:
        """Those that hold the prompt and can bear it."""
        cached = request.cached_tokens
        if not cached:
            return []
        longest = max(cached.get(i, 0) for i in room)
        if not longest or longest < WORTH * request.prompt_tokens:
            return []
        crowd = CROWD * sum(map(loads.requests, room)) / len(room) + SPARE
        late = min(backlog_ms(i, now, loads) for i in room) + LATER_MS
        return [
            i
            for i in room
            if cached.get(i, 0) >= NEARLY * longest
            and loads.requests(i) <= crowd
            and backlog_ms(i, now, loads) <= late
        ]


def _cheapest_warm(rows: list[_Row], crowd: float, late: float) -> str | None:
    """The cheapest that holds nearly the most and is not saturated."""
    nearly = NEARLY * max(row[1] for row in rows) if len(rows) > 1 else 0.0
    chosen, least = None, INFINITE
    for cost, held, running, backlog, name in rows:
        if cost < least and held >= nearly and running <= crowd and backlog <= late:
            chosen, least = name, cost
    return chosen
