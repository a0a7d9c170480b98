"""Sticky until saturated: the instance that holds the prompt, unless it is much busier than the others."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sage_inference.control_plane.load import DECODE_TOKENS
from sage_inference.control_plane.load import backlog_ms as backlog_now_ms
from sage_inference.control_plane.policies.base import Clock, Loads
from sage_inference.control_plane.policies.cost import backlog_ms, cost_ms
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest

WORTH = 0.3  # of a prompt cached somewhere makes it worth going there
NEARLY = 0.8  # of the longest cached part is as good as the longest
CROWD, SPARE = 1.5, 8  # times the mean of requests in flight, and some more
LATER_MS = 4000.0  # a backlog longer than the shortest by this is saturated


INFINITE = float("inf")


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
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
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
        self, request: SchedulingRequest, instances: Sequence[ExecutionInstance]
    ) -> tuple[str | None, str]:
        """The same for one request, with as little as decides it: this is asked of every request."""
        now = self._clock()
        tokens, cached = request.prompt_tokens, request.cached_tokens
        if cached:
            warm = _warmest(request, instances, now)
            if warm is not None:
                return warm, "cached there"
        chosen, least = None, INFINITE
        self._turn = turn = self._turn + 1
        ties = 1
        for i in instances:
            load, running, limit = i.load, i.active_requests, i.max_concurrent_requests
            if limit and running >= limit:
                continue
            k = load.ms_per_token
            cost = k * (tokens + DECODE_TOKENS * running)
            if load.pending_tokens:
                backlog = k * load.pending_tokens - (now - load.progress_at) * 1000
                if backlog > 0.0:
                    cost += backlog
            if cached:
                cost -= k * cached.get(i, 0)
            if cost < least:
                chosen, least, ties = i.instance_id, cost, 1
            elif cost == least:
                # Equal costs go round: idle instances share the work, and different prompts their caches.
                ties += 1
                if not turn % ties:
                    chosen = i.instance_id
        return chosen, "cheapest"

    def _warm(
        self, request: SchedulingRequest, room: list[ExecutionInstance], now: float, loads: Loads
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


def _warmest(request: SchedulingRequest, instances: Sequence[ExecutionInstance], now: float) -> str | None:
    """The cheapest that holds nearly the most of the prompt and can bear it."""
    tokens, longest, holders = request.prompt_tokens, 0, []
    for i, held in request.cached_tokens.items():
        limit = i.max_concurrent_requests
        if i in instances and (not limit or i.active_requests < limit):
            holders.append((i, held))
            if held > longest:
                longest = held
    if longest < WORTH * tokens:
        return None
    chosen, least = None, INFINITE
    nearly = NEARLY * longest
    for i, held in holders:
        if held < nearly:
            continue
        load, running = i.load, i.active_requests
        backlog = backlog_now_ms(load, now) if load.pending_tokens else 0.0
        cost = backlog + load.ms_per_token * (tokens - held + DECODE_TOKENS * running)
        # Within these no instance is crowded or late, whatever the others are.
        bears = running <= SPARE and backlog <= LATER_MS
        if cost < least and (bears or _bears(running, backlog, instances, now)):
            chosen, least = i.instance_id, cost
    return chosen


def _bears(running: int, backlog: float, instances: Sequence[ExecutionInstance], now: float) -> bool:
    """Whether an instance is neither crowded nor late, as the others are."""
    room = [i for i in instances if _has_room(i)]
    crowd = CROWD * sum([i.active_requests for i in room]) / len(room) + SPARE
    late = min([backlog_now_ms(i.load, now) for i in room]) + LATER_MS
    return running <= crowd and backlog <= late


def _has_room(instance: ExecutionInstance) -> bool:
    limit = instance.max_concurrent_requests
    return not limit or instance.active_requests < limit
