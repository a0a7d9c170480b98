"""The requests that wait for one group of instances, and the choice of the next one."""

from __future__ import annotations

import math

from sage_inference.control_plane.accounting.prompt_share import CHEAP_MS
from sage_inference.control_plane.accounting.tenants import TenantCounters
from sage_inference.control_plane.queue.ageing import work_of
from sage_inference.control_plane.queue.band import Band
from sage_inference.control_plane.queue.heap import Heap
from sage_inference.control_plane.queue.orders import CHEAP, OVERDUE, Order, Predict
from sage_inference.control_plane.submission import Waiting
from sage_inference.types import ExecutionInstance

# An overdue request is ordered as if it had arrived so many times its prompt's time later. No overdue request is in time
# any more, so the shortest first keeps the mean wait short. Ageing bounds the wait of the long ones.
STRETCH = 300.0
# An overdue prompt is predicted again when it has waited a quarter longer, a few of them at a time: a prompt with many
# blocks takes long to look up.
REVIEW_S, REVIEW_AFTER, REVIEWS = 1.0, 0.25, 4
# Requests that are ranked again in one piece, when many become overdue in one moment. Each takes 10 to 20 microseconds, and
# more with a long prompt, which counts as several. The loop has other work to do in between.
PIECE = 256
_BLOCKS = 64  # of a prompt that are looked up in the time of one more request


class RankingBudget:
    """The requests that one pass over the queues may still rank again, see ``PIECE``."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = PIECE


class GroupQueue:
    """Bands of requests: within one, tenants by what they were served, and a tenant's requests by the order's keys.

    A part of the work goes to the request that is due first, see ``Ageing``. So every request is served in the end, under
    any mix. A reserved request stands aside until its instance opens or its reservation ends.

    Overdue requests go behind the others, and get what instances can spare. Cheap prompts go before dear ones. Of either
    kind, short prompts go before long ones. An overdue prompt is predicted again now and then, because its prefix may have
    been cached or lost meanwhile.
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
        self._predict = predict  # None: the first prediction is kept
        self._bands = [Band(counters) for _ in range(order.bands)]
        self._changes: Heap[Waiting] = Heap()
        self._reviews: Heap[Waiting] = Heap()
        self._reservations: Heap[Waiting] = Heap()
        self._reserved: dict[ExecutionInstance, dict[Waiting, None]] = {}
        self._tenants: dict[str, int] = {}
        self._passed = 0  # work placed since a request had its turn by ageing
        self._aged: Waiting | None = None  # the request whose turn it is by ageing; it goes before all others

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, waiting: Waiting, predicted_ms: float, now: float) -> None:
        """``predicted_ms`` is the time of its prompt itself."""
        tenant = waiting.request.tenant
        count = self._tenants.get(tenant, 0)
        if not count:
            # A tenant that was idle would otherwise have served nothing for long, and go before all others.
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

    def next(self, now: float, work: RankingBudget | None = None) -> Waiting | None:
        """The next request; it stays until it is removed or reserved. None if there is none, or if ``work`` is used up.

        ``work`` bounds what is ranked again, here and in other queues of the same pass. The rest is done in the next pass,
        which ``wakes_at`` asks for.
        """
        work = work or RankingBudget()
        while self._changes.first_key() <= now and work.left > 0:
            self._rank_again(self._changes.pop(), now, work)
        for _ in range(REVIEWS):
            if self._reviews.first_key() > now:
                break
            self._rank_again(self._reviews.pop(), now, work)
        while self._reservations.first_key() <= now and work.left > 0:
            work.left -= 1
            self._return(self._reservations.pop())
        bands = self._bands
        # Of the bands, not of the reservations: a reserved request has an instance that will take it.
        senior = min(filter(None, [band.senior() for band in bands]), key=_seniority, default=None)
        if senior is not None and self._has_turn(senior, now):
            self._aged = senior
            senior.overdue = False  # from now on it goes before those that are in time
            return senior
        if len(bands) == 1:
            return bands[0].next()
        first = bands[self.order.pick([band.seniority() for band in bands])].next()
        if first is not None and first.change is not None and first.change.key <= now:
            return None  # still ranked as if it were in time: it would take what requests in time need
        return first

    def placed(self, waiting: Waiting) -> None:
        """A request of this queue was placed."""
        if waiting is self._aged:
            self._passed = 0
        else:
            self._passed += work_of(waiting.request)

    def may_stand_back(self, waiting: Waiting) -> bool:
        """Whether the request is in time and waits for its place in the order, not for an instance or by ageing."""
        return (
            self.order.defers
            and not waiting.overdue
            and waiting is not self._aged
            and waiting.reserved_for is None
        )

    def stand_back(self, waiting: Waiting, now: float) -> None:
        """Order the request as if it were overdue, until its prompt is predicted again."""
        self._bands[waiting.band].remove(waiting)
        if waiting.change is not None:
            self._changes.leave(waiting.change)
            waiting.change = None
        if waiting.review is not None:  # it was overdue before its turn by ageing came
            self._reviews.leave(waiting.review)
            waiting.review = None
        waiting.stands_back = True
        self._rank(waiting, now)
        self._enter(waiting)

    def reserve(self, waiting: Waiting, instance: ExecutionInstance, until: float) -> None:
        """Let others pass the request: ``instance`` has its prompt cached, and is closed now."""
        self._bands[waiting.band].remove(waiting)
        waiting.patient = False
        waiting.reserved_for = instance
        waiting.reservation = self._reservations.push(until, waiting)
        self._reserved.setdefault(instance, {})[waiting] = None

    def reserved(self, instance: ExecutionInstance) -> Waiting | None:
        """The first request that is reserved for ``instance``."""
        return next(iter(self._reserved.get(instance, ())), None)

    def reserved_instances(self) -> list[ExecutionInstance]:
        """The instances for which requests are reserved."""
        return list(self._reserved)

    def everyone(self) -> list[Waiting]:
        """All requests of the queue, in order of arrival."""
        found = [waiting for band in self._bands for waiting in band]
        found += [waiting for reserved in self._reserved.values() for waiting in reserved]
        return sorted(found, key=_arrived)

    def wakes_at(self, now: float) -> float:
        """The next time when a request may be placed though nothing else happens; infinite if there is none.

        A reservation ends then, or an instance can spare something for an overdue request. If ``next`` left requests to be
        ranked again, that time is now.
        """
        if self._changes.first_key() <= now:
            return now
        at = self._reservations.first_key()
        if self.order.defers and (self._bands[OVERDUE] or self._bands[CHEAP]):
            at = min([at, *(i.load.spares_from for i in self.group if i.load.spares_from > now)])
        return at

    def _has_turn(self, senior: Waiting, now: float) -> bool:
        """Whether the most senior request goes before all others, whatever the order."""
        return senior.due_at <= now and self.order.ageing.is_next(senior.request, self._passed)

    def _enter(self, waiting: Waiting) -> None:
        self._bands[waiting.band].add(waiting, waiting.key)

    def _rank(self, waiting: Waiting, now: float) -> None:
        """Set its band and key, and the time when it is to be ranked again."""
        prompt_ms = waiting.prompt_ms
        waiting.band, waiting.key, overdue_at = self.order.place(waiting.request, prompt_ms)
        waiting.due_at = self.order.ageing.due_at(waiting.request, prompt_ms)
        waiting.seniority = waiting.due_at if self.order.defers else waiting.arrived
        # An order that puts nobody behind the others has no bands for those that stand back under another.
        waiting.overdue = (waiting.stands_back and self.order.defers) or overdue_at <= now
        if waiting.overdue:
            waiting.band = CHEAP if prompt_ms <= CHEAP_MS else OVERDUE
            waiting.key = waiting.arrived + STRETCH * prompt_ms / 1000
            if self._predict is not None:
                again = now + max(REVIEW_S, REVIEW_AFTER * (now - waiting.arrived))
                waiting.review = self._reviews.push(again, waiting)
        elif overdue_at < math.inf:
            waiting.change = self._changes.push(overdue_at, waiting)

    def _rank_again(self, waiting: Waiting, now: float, work: RankingBudget) -> None:
        """It becomes overdue, unless its prefix was cached meanwhile; or it is overdue, and its review is due."""
        work.left -= 1 + len(waiting.request.prompt_blocks) // _BLOCKS
        waiting.change = waiting.review = None
        waiting.stands_back = False
        # A reserved request is in no band. It enters its band when the reservation ends.
        if waiting.reserved_for is None:
            self._bands[waiting.band].remove(waiting)
        if self._predict is not None:
            waiting.prompt_ms = self._predict(waiting.request, self.group)
        self._rank(waiting, now)
        if waiting.reserved_for is None:
            self._enter(waiting)

    def _return(self, waiting: Waiting) -> None:
        """Its reservation has ended: it waits for any instance of the group again."""
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


def _arrived(waiting: Waiting) -> float:
    return waiting.arrived


def _seniority(waiting: Waiting) -> float:
    return waiting.seniority
