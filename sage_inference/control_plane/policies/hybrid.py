"""Sticky until saturated: the instance that has the prompt cached, unless it is much busier than the least busy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sage_inference.control_plane.cost import DECODE_TOKENS, backlog_ms, cost_ms, uncached
from sage_inference.control_plane.instances.load import has_slot
from sage_inference.control_plane.policies.base import Clock, Paces, paces_of
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest

WORTH = 0.3  # of the prompt cached makes an instance worth choosing for that, if it is as much as a running request
NEARLY = 0.8  # of the longest cached part counts as much as the longest
CROWD, SPARE = 1.5, 8  # times the requests of the least busy instance, and some more
LATER_MS = 4000.0  # a backlog longer than the shortest by this is saturated
EVEN = 0.5  # running requests for each instance of the group: a cost within these counts as the cheapest
_SAME_PACES = 16  # decisions
_MOST_NOTED = 4096  # instances; they come and go
INFINITE = float("inf")

# Requests and uncached prompt tokens that this call has placed on an instance.
Placed = dict[ExecutionInstance, tuple[int, int]]
_NOTHING = 0, 0


class Hybrid:
    """Place where the prompt is cached while that instance is not saturated, otherwise where the cost is least.

    c = B + k·(n − h) + k·267·nin, see ``control_plane.cost``. If h reaches 0.3·n and 267 somewhere, the cheapest
    instance wins among those with h ≥ 0.8·max h, nin ≤ 1.5·least nin + 8 and B within 4 s of the least. Otherwise the
    cheapest of all wins. To take the cheapest always would copy large shared prefixes to every instance near saturation,
    until no cache has room. An idle instance that costs less than these goes first in any case. A shorter prefix saves less
    than one running request costs, so a copy of it does no harm, and its place in c is enough.

    nin is compared with the least busy instance, not with the mean. If all requests share one prefix and most instances
    have it, none of these is much busier than the mean, and the others would stay idle for ever.

    Instances that have the prompt and cost little more than the cheapest take turns: the one chosen least recently is
    next. Little more is one running request for two instances of the group. Arrivals at one engine are then spaced out, as
    round robin does, and fewer prompts meet in one step.
    """

    name = "hybrid"
    sticky = True

    def __init__(self, clock: Clock = time.monotonic, order: str = "adaptive") -> None:
        self.order = order
        self._clock = clock
        self._rotation = 0
        self._chosen_at: dict[str, int] = {}  # the rotation in which an instance was last chosen
        self._paces: Paces = {}
        self._paces_of: tuple[
            ExecutionInstance, ...
        ] = ()  # mostly the very tuple that comes with the next request
        self._fastest = 0.0  # of the paces
        self._paces_until = 0  # the rotation in which the paces are computed again

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        placed: Placed | None = None  # by this call; the gateway asks for one request at a time
        decisions: list[SchedulingDecision] = []
        for request in requests:
            now = self._clock()
            self._rotation = rotation = self._rotation + 1
            if rotation >= self._paces_until or (
                instances is not self._paces_of and tuple(instances) != self._paces_of
            ):
                self._even_paces(instances)
            chosen, reason = None, "cached there"
            if request.cached_tokens and request.prompt_tokens >= DECODE_TOKENS:
                chosen = self._warmest(request, request.cached_tokens, placed, now)
            if chosen is None:
                reason = "cheapest"
                if placed is None:
                    chosen = self._cheapest(request, now)
                else:
                    chosen = self._cheapest_beside(placed, request, now)
                if chosen is None:
                    break
            name = chosen.instance_id
            self._chosen_at[name] = rotation
            decisions.append(
                SchedulingDecision(request.request_id, name, reason, paces=self._paces, target=chosen)
            )
            if len(requests) > 1:
                # Without this all requests of the call would go to the instance that is cheapest for the first.
                placed = {} if placed is None else placed
                running, tokens = placed.get(chosen, _NOTHING)
                placed[chosen] = running + 1, tokens + max(1, uncached(request, chosen))
        return decisions

    def _even_paces(self, instances: Sequence[ExecutionInstance]) -> None:
        """Compute the paces. For the same instances only now and then, because paces change by a few percent a minute."""
        self._paces_of, self._paces_until = tuple(instances), self._rotation + _SAME_PACES
        self._paces = paces_of(instances)
        self._fastest = min(self._paces.values(), default=0.0)
        # Only the order of the last choices is lost: the next ones set it again.
        if len(self._chosen_at) > _MOST_NOTED:
            self._chosen_at.clear()

    def _cheapest(self, request: SchedulingRequest, now: float) -> ExecutionInstance | None:
        """The cheapest instance with a slot.

        This is called for every request, so the laws of ``cost.backlog_ms``, ``cost.cost_ms`` and ``has_slot`` are written
        out: each call would cost as much as the arithmetic. ``test_the_choice_is_the_formulas`` holds them equal.
        """
        tokens, cached, chosen_at, a_request = (
            request.prompt_tokens,
            request.cached_tokens,
            self._chosen_at,
            DECODE_TOKENS,
        )
        chosen, least = None, INFINITE
        for i, k in self._paces.items():
            if cached:
                cost = k * (tokens - cached.get(i, 0) + a_request * i.active_requests)
            else:
                cost = k * (tokens + a_request * i.active_requests)
            if cost > least:  # its backlog would only add to that
                continue
            if i.max_concurrent_requests and i.active_requests >= i.max_concurrent_requests:
                continue
            load = i.load
            if load.pending_tokens:
                backlog = k * load.pending_tokens - (now - load.progress_at) * 1000
                if backlog > 0.0:
                    cost += backlog
            if cost < least:
                chosen, least = i, cost
            elif (
                # Equal costs take turns, so that idle instances share the work, and different prompts fill different caches.
                cost == least
                and chosen is not None
                and chosen_at.get(i.instance_id, 0) < chosen_at.get(chosen.instance_id, 0)
            ):
                chosen = i
        return chosen

    def _cheapest_beside(
        self, placed: Placed, request: SchedulingRequest, now: float
    ) -> ExecutionInstance | None:
        """The same for a request that is not the first of a call."""
        best: tuple[float, int] = INFINITE, 0
        chosen = None
        for i, k in self._paces.items():
            running, pending = _with(placed, i)
            if has_slot(i, running - i.active_requests):
                backlog = backlog_ms(k, pending, now - i.load.progress_at)
                cost = cost_ms(k, backlog, uncached(request, i), running)
                found = cost, self._chosen_at.get(i.instance_id, 0)
                if chosen is None or found < best:
                    best, chosen = found, i
        return chosen

    def _warmest(
        self,
        request: SchedulingRequest,
        cached: Mapping[ExecutionInstance, int],
        placed: Placed | None,
        now: float,
    ) -> ExecutionInstance | None:
        """One of the cheapest instances that have nearly the most of the prompt cached, and are not saturated.

        The laws of ``cost`` are written out here as in ``_cheapest``.
        """
        tokens, paces = request.prompt_tokens, self._paces
        longest = 0
        for depth in cached.values():  # a loop, because ``max`` takes longer for a few
            if depth > longest:
                longest = depth
        if longest < WORTH * tokens or longest < DECODE_TOKENS:
            return None
        nearly = NEARLY * longest
        most: tuple[float, float] | None = None
        least, bearable = INFINITE, []
        for i, depth in cached.items():
            if depth < nearly:
                continue
            pace, running, limit = paces.get(i), i.active_requests, i.max_concurrent_requests
            pending = i.load.pending_tokens
            if placed is not None:
                running, pending = _with(placed, i)
            if pace is None or (
                limit and running >= limit
            ):  # "longest" must be that of an instance that can be chosen
                others = _with_room(cached, paces, placed)
                return self._warmest(request, others, placed, now) if others else None
            backlog = 0.0
            if pending:
                backlog = pace * pending - (now - i.load.progress_at) * 1000
                if backlog < 0.0:
                    backlog = 0.0
            # Within these bounds an instance is neither crowded nor saturated, whatever the others are. So the loop over all
            # instances is not needed in the usual case.
            if running > SPARE or backlog > LATER_MS:
                most = most or _most_bearable(paces, placed, now)
                if running > most[0] or backlog > most[1]:
                    continue
            cost = backlog + pace * (tokens - depth + DECODE_TOKENS * running)
            bearable.append((cost, pace, i))
            if cost < least:
                least = cost
        # If all instances are bearable, the idle ones are among them.
        idle_may_be_better = least > self._fastest * tokens and len(bearable) < len(paces)
        if idle_may_be_better and _idle_costs_less(least, tokens, paces, placed):
            return None
        return self._next_in_turn(bearable, least)

    def _next_in_turn(
        self, costs: Sequence[tuple[float, float, ExecutionInstance]], least: float
    ) -> ExecutionInstance | None:
        """Of the instances that cost little more than ``least``, the one chosen least recently. Each comes with its pace."""
        # The usual case of a long prompt: one instance has it.
        if len(costs) == 1:
            return costs[0][2]
        slack, chosen_at = DECODE_TOKENS * EVEN * len(self._paces), self._chosen_at
        chosen, first = None, self._rotation + 1
        for cost, pace, i in costs:
            if cost <= least + pace * slack and (at := chosen_at.get(i.instance_id, 0)) < first:
                chosen, first = i, at
        return chosen


def _with_room(
    cached: Mapping[ExecutionInstance, int], paces: Paces, placed: Placed | None
) -> dict[ExecutionInstance, int]:
    """The entries of ``cached`` whose instance may be chosen and has room."""
    return {
        i: depth
        for i, depth in cached.items()
        if i in paces and has_slot(i, placed.get(i, _NOTHING)[0] if placed else 0)
    }


def _idle_costs_less(cost: float, tokens: int, paces: Paces, placed: Placed | None) -> bool:
    """Whether an idle instance would take less for the whole prompt. No other request waits for that."""
    for i, pace in paces.items():
        if not i.active_requests and pace * tokens < cost and not any(_with(placed, i)):
            return True
    return False


def _with(placed: Placed | None, instance: ExecutionInstance) -> tuple[int, int]:
    """Requests and pending tokens of an instance, with what this call has placed."""
    more = placed.get(instance, _NOTHING) if placed else _NOTHING
    return instance.active_requests + more[0], instance.load.pending_tokens + more[1]


def _most_bearable(paces: Paces, placed: Placed | None, now: float) -> tuple[float, float]:
    """The requests and the backlog beyond which an instance is crowded or saturated.

    Both follow from the least busy instance with a slot.
    """
    fewest, soonest = INFINITE, INFINITE
    for i, pace in paces.items():
        running, pending = _with(placed, i)
        if has_slot(i, running - i.active_requests):
            fewest = min(fewest, running)
            soonest = min(soonest, backlog_ms(pace, pending, now - i.load.progress_at))
    return CROWD * fewest + SPARE, soonest + LATER_MS
