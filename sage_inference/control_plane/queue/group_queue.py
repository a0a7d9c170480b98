"""The requests that wait for one group of instances, and which of them is next."""

from __future__ import annotations

import math

from sage_inference.control_plane.accounting.prompt_share import CHEAP_MS
from sage_inference.control_plane.accounting.tenants import TenantCounters
from sage_inference.control_plane.cost import DECODE_TOKENS
from sage_inference.control_plane.queue.band import Band
from sage_inference.control_plane.queue.heap import Heap
from sage_inference.control_plane.queue.orders import CHEAP, OVERDUE, Order, Predict
from sage_inference.control_plane.submission import Waiting
from sage_inference.types import ExecutionInstance, SchedulingRequest

GUARD = 8  # for so much work done, the oldest request's own share of it
GUARDED_FROM = 0.2  # of the time after which it has this share: before, nobody late is guarded
STRETCH = 30.0  # a late request's turn comes as if it had come so many times its prompt's time later
# A late prompt is predicted anew when it has waited a quarter longer, a few of them at a time: so those with many blocks
# cost no more than a few look-ups.
REVIEW_S, REVIEW_AFTER, REVIEWS = 1.0, 0.25, 4


class GroupQueue:
    """Bands of requests: within one, tenants by what they were served, and a tenant's by the order's keys.

    An eighth of the work goes to the oldest request, if it has waited ten times its SLO: so everybody is served
    in the end, under any mix. Where requests fall late, its share grows to that with its wait, from one in thirty-six after
    twice its SLO. A held request stands aside until its instance opens or its patience ends.

    Requests that can't be in time any more are late: they go behind the others, and to what instances can spare. Cheap
    prompts go before dear ones, and of either, long ones behind short ones that came a little later. A late prompt is
    predicted anew now and then, because its prefix may have been cached or lost meanwhile.
    """

    def __init__(
        self,
        group: tuple[ExecutionInstance, ...],
        order: Order,
        counters: TenantCounters,
        predict: Predict | None = None,
    ) -> None:
        self.group = group
        self.order = order
        self.tokens = 0  # of the prompts that wait here
        self._counters = counters
        self._predict = predict  # None: what was predicted first is kept
        self._bands = [Band(counters) for _ in range(order.bands)]
        self._changes: Heap[Waiting] = Heap()
        self._reviews: Heap[Waiting] = Heap()
        self._reservations: Heap[Waiting] = Heap()
        self._reserved: dict[ExecutionInstance, dict[Waiting, None]] = {}
        self._tenants: dict[str, int] = {}
        self._passed = 0  # work placed since the oldest had its turn
        self._guarded: Waiting | None = None  # the oldest, if it is its turn

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, waiting: Waiting, predicted_ms: float, now: float) -> None:
        """``predicted_ms`` is what its prompt alone takes."""
        tenant = waiting.request.tenant
        count = self._tenants.get(tenant, 0)
        if not count:
            self._counters.lift(tenant, min(band.least() for band in self._bands))
        self._tenants[tenant] = count + 1
        self.tokens += waiting.request.prompt_tokens
        waiting.prompt_ms = predicted_ms
        self._rank(waiting, now)
        self._enter(waiting)

    def remove(self, waiting: Waiting) -> None:
        tenant = waiting.request.tenant
        count = self._tenants[tenant] = self._tenants[tenant] - 1
        if not count:
            del self._tenants[tenant]
        self.tokens -= waiting.request.prompt_tokens
        if waiting.change is not None:
            self._changes.leave(waiting.change)
        if waiting.review is not None:
            self._reviews.leave(waiting.review)
        if waiting.reserved_for is None:
            self._bands[waiting.band].remove(waiting)
        else:
            self._unreserve(waiting)

    def next(self, now: float) -> Waiting | None:
        """The next request; it stays until it is removed or held."""
        while self._changes.first_key() <= now:
            self._rank_anew(self._changes.pop(), now)
        for _ in range(REVIEWS):
            if self._reviews.first_key() > now:
                break
            self._rank_anew(self._reviews.pop(), now)
        while self._reservations.first_key() <= now:
            self._back(self._reservations.pop())
        bands = self._bands
        oldest = min(filter(None, [band.oldest() for band in bands]), key=_arrived, default=None)
        if oldest is not None and self._is_guarded(oldest, now):
            self._guarded = oldest
            oldest.overdue = False  # nobody is spared any more at its cost
            return oldest
        if len(bands) == 1:
            return bands[0].next()
        return bands[self.order.pick([band.oldest_arrival() for band in bands])].next()

    def placed(self, waiting: Waiting) -> None:
        """One of these was placed."""
        if waiting is self._guarded:
            self._passed = 0
        else:
            self._passed += _work(waiting.request)

    def reserve(self, waiting: Waiting, instance: ExecutionInstance, until: float) -> None:
        """Let others pass it: its prompt is cached by ``instance``, which is closed now."""
        self._bands[waiting.band].remove(waiting)
        waiting.patient = False
        waiting.reserved_for = instance
        waiting.reservation = self._reservations.push(until, waiting)
        self._reserved.setdefault(instance, {})[waiting] = None

    def reserved(self, instance: ExecutionInstance) -> Waiting | None:
        """The first that is held for ``instance``."""
        return next(iter(self._reserved.get(instance, ())), None)

    def reserved_instances(self) -> list[ExecutionInstance]:
        """The instances for which requests are held."""
        return list(self._reserved)

    def everyone(self) -> list[Waiting]:
        """All that wait here, in order of arrival."""
        found = [waiting for band in self._bands for waiting in band]
        found += [waiting for reserved in self._reserved.values() for waiting in reserved]
        return sorted(found, key=_arrived)

    def wakes_at(self, now: float) -> float:
        """When a hold ends, or an instance can spare something for the late; infinite where nobody waits for it."""
        at = self._reservations.first_key()
        if self.order.defers and (self._bands[OVERDUE] or self._bands[CHEAP]):
            at = min([at, *(i.load.spares_from for i in self.group if i.load.spares_from > now)])
        return at

    def _is_guarded(self, oldest: Waiting, now: float) -> bool:
        """Whether it is the turn of the oldest, whatever the order."""
        span = oldest.starving_at - oldest.arrived
        waited = min(now - oldest.arrived, span)
        if waited < (GUARDED_FROM if self.order.defers else 1.0) * span:
            return False
        return self._passed * waited >= (GUARD - 1) * _work(oldest.request) * span

    def _enter(self, waiting: Waiting) -> None:
        self._bands[waiting.band].add(waiting, waiting.key)

    def _rank(self, waiting: Waiting, now: float) -> None:
        """Note its place, and when to look at it again."""
        prompt_ms = waiting.prompt_ms
        waiting.band, waiting.key, overdue_at = self.order.place(waiting.request, prompt_ms)
        waiting.overdue = overdue_at <= now
        if waiting.overdue:
            waiting.band = CHEAP if prompt_ms <= CHEAP_MS else OVERDUE
            waiting.key = waiting.arrived + STRETCH * prompt_ms / 1000
            if self._predict is not None:
                again = now + max(REVIEW_S, REVIEW_AFTER * (now - waiting.arrived))
                waiting.review = self._reviews.push(again, waiting)
        elif overdue_at < math.inf:
            waiting.change = self._changes.push(overdue_at, waiting)

    def _rank_anew(self, waiting: Waiting, now: float) -> None:
        """It falls late, unless its prefix was cached meanwhile; or it is late, and was predicted a while ago."""
        waiting.change = waiting.review = None
        if waiting.reserved_for is None:
            self._bands[waiting.band].remove(waiting)
        if self._predict is not None:
            waiting.prompt_ms = self._predict(waiting.request, self.group)
        self._rank(waiting, now)
        if waiting.reserved_for is None:
            self._enter(waiting)

    def _back(self, waiting: Waiting) -> None:
        """Its patience has ended: it is in line again, for any instance."""
        self._unreserve(waiting)
        self._enter(waiting)

    def _unreserve(self, waiting: Waiting) -> None:
        assert waiting.reserved_for is not None
        assert waiting.reservation is not None
        reserved = self._reserved[waiting.reserved_for]
        del reserved[waiting]
        if not reserved:
            del self._reserved[waiting.reserved_for]
        self._reservations.leave(waiting.reservation)
        waiting.reserved_for = None


def _work(request: SchedulingRequest) -> int:
    return request.prompt_tokens + DECODE_TOKENS


def _arrived(waiting: Waiting) -> float:
    return waiting.arrived
