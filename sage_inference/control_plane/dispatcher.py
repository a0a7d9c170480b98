"""Requests that wait: queued, placed when an instance opens, refused when their time is up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.accounting.ledger import Ledger
from sage_inference.control_plane.accounting.prompt_share import is_harmful
from sage_inference.control_plane.accounting.rates import retry_after_s
from sage_inference.control_plane.instances.rejections import deadline_passed
from sage_inference.control_plane.placer import Placer
from sage_inference.control_plane.queue.group_queue import GroupQueue, RankingBudget
from sage_inference.control_plane.queue.orders import ORDERS
from sage_inference.control_plane.queue.patience import RESERVED_S, reserved_s
from sage_inference.control_plane.queue.request_queue import RequestQueue
from sage_inference.control_plane.queue.shares import DISPLACED
from sage_inference.control_plane.selector import Choice, Selector, healthy, prefill_ms
from sage_inference.control_plane.setup import Hooks
from sage_inference.control_plane.submission import Group, Submission, Waiting
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import EngineState, ExecutionInstance, SchedulingRequest

# Deadlines that end in one moment are refused in pieces: each refusal writes an answer, at 50 to 100 microseconds.
REFUSALS = 64


class Dispatcher:
    """Places what waits, and asks for an alarm when some of it can be placed though nothing else happens."""

    def __init__(
        self,
        selector: Selector,
        queue: RequestQueue,
        placer: Placer,
        ledger: Ledger,
        hooks: Hooks,
        limits: LimitSettings,
    ) -> None:
        self.limits = limits
        self._selector = selector
        self._queue = queue
        self._placer = placer
        self._ledger = ledger
        self._hooks = hooks
        self._alarm_at = math.inf

    def retry_after(self, now: float) -> int:
        return retry_after_s(self._queue.requests + 1, self._ledger.rates.finished_per_s(now))

    def add(
        self, submission: Submission, group: Group, order: str, choice: Choice | None, now: float
    ) -> None:
        """Queue a submission. With a ``choice`` it is reserved for that instance. Raises ``Rejection`` if it has no room."""
        request, queue = submission.request, self._queue
        displaced: list[Waiting] | None = []
        if not queue.has_room(submission, self.limits):
            displaced = queue.make_room(submission, self.limits)
            if displaced is None:
                message = f"{queue.requests} requests wait already; try again later"
                raise Rejection(Reason.QUEUE_FULL, message, retry_after_s=self.retry_after(now))
        waiting = queue.add(submission, group, order, prefill_ms(request, group), now)
        group_queue = queue.of(waiting)
        if choice is not None:
            group_queue.reserve(waiting, choice[1], now + reserved_s(request, group, now))
        else:
            self._serve(group_queue, now)
        if displaced:
            self._turn_away(displaced, now)
        self._set_alarm(now)

    def for_long(
        self, submission: Submission, group: Group, order: str, choice: Choice, prompt_ms: float, now: float
    ) -> Choice | None:
        """The ``choice`` for a long prompt that comes; None if it waits for what can be spared.

        It waits if it is overdue from the start, or if it would slow streams down wherever it goes.
        """
        law, request = ORDERS[order], submission.request
        is_late = law.place(request, prompt_ms)[2] <= now
        is_dear = law.defers and is_harmful(request, choice[1], prompt_ms, now)
        if not (is_late or is_dear) or not self._queue.has_room(submission, self.limits):
            return choice
        return None if is_late else self._selector.choose_harmless(submission, group, now)

    def withdraw(self, waiting: Waiting, now: float) -> None:
        """The request no longer waits."""
        self._queue.remove(waiting)
        # Requests behind it may need less: one of them may fit where it did not.
        self._serve_at(waiting, now)
        self._set_alarm(now)

    def dispatch(self, now: float) -> None:
        """An alarm, or a change of the instances: refuse what is too late, and place what can be placed."""
        self._alarm_at = math.inf  # in any case, because a timer may fire a little early
        for _ in range(REFUSALS):
            if self._queue.deadlines.first_key() > now:
                break
            self._give_up(self._queue.deadlines.pop(), now)
        self.serve_all(now)

    def serve_all(self, now: float) -> None:
        """Place what can be placed, of every group."""
        work = RankingBudget()
        for group_queue in list(self._queue.group_queues.values()):
            self._serve(group_queue, now, work)
        self._set_alarm(now)

    def regroup(
        self,
        place: Callable[[Waiting], tuple[Group, str, float]],
        unserved: Callable[[SchedulingRequest], Rejection],
        now: float,
    ) -> None:
        """Groups or orders changed: sort what waits again, and refuse what no instance serves any more."""
        for stranded in self._queue.regroup(place, now):
            self._queue.remove(stranded)
            stranded.submission.refused(unserved(stranded.request))

    def _turn_away(self, displaced: Iterable[Waiting], now: float) -> None:
        """Refuse displaced requests. The queue must be consistent by then, because a refusal may bring new requests."""
        displaced = list(displaced)
        for first in {(each.group, each.order): each for each in displaced}.values():
            self._serve_at(first, now)
        wait_s = self.retry_after(now)
        for waiting in displaced:
            waiting.submission.refused(Rejection(Reason.QUEUE_FULL, DISPLACED, retry_after_s=wait_s))

    def _serve_at(self, left: Waiting, now: float) -> None:
        """Serve the queue that a request left."""
        group_queue = self._queue.group_queue(left.group, left.order)
        if group_queue is not None:
            self._serve(group_queue, now)

    def _serve(self, group_queue: GroupQueue, now: float, work: RankingBudget | None = None) -> None:
        work = work or RankingBudget()
        # Each round asks the queue again: a placed request may end others, or bring new ones.
        for instance in group_queue.reserved_instances():
            # Only the last instance of a group is tried while it is down, and no request is reserved for that one.
            while (
                instance.state is EngineState.READY
                and (waiting := group_queue.reserved(instance)) is not None
                and self._try(waiting, (instance,), now, work)
            ):
                pass
        while (first := group_queue.next(now, work)) is not None and self._try(
            first, group_queue.group, now, work
        ):
            pass

    def _try(self, waiting: Waiting, group: Group, now: float, work: RankingBudget) -> bool:
        """Place a waiting request, or reserve it. False: it stays where it is, and so do the requests behind it."""
        group_queue, request = self._queue.of(waiting), waiting.request
        # Embeddings take no part of the prompts' share: they never wait for what can be spared.
        overdue = waiting.overdue and request.request_type.is_llm
        try:
            choice = self._selector.choose(waiting.submission, group, now, waiting.patient, overdue)
        except Exception as error:
            self._drop(waiting, error)
            return True
        if choice is None:
            return self._reserve_untried(waiting, group_queue, group, now)
        decision, instance, need = choice
        if decision is None:
            group_queue.reserve(waiting, instance, now + reserved_s(request, group, now))
            return True
        if group_queue.may_stand_back(waiting):
            prompt_ms = need * instance.load.ms_per_token
            if is_harmful(request, instance, prompt_ms, now):
                elsewhere = self._selector.choose_harmless(waiting.submission, group, now)
                if elsewhere is None:
                    work.left -= 1
                    if work.left >= 0:
                        group_queue.stand_back(waiting, now)
                    return work.left >= 0
                decision, instance, need = elsewhere
        is_late = overdue and not waiting.stands_back
        self._queue.remove(waiting)
        self._ledger.tenants.left(request.tenant)
        group_queue.placed(waiting)
        self._placer.put(waiting.submission, decision, instance, need, group_queue.group, now, is_late)
        return True

    def _reserve_untried(self, waiting: Waiting, group_queue: GroupQueue, group: Group, now: float) -> bool:
        """A request may not go back where it failed. Requests that may go there must not wait behind it."""
        tried = waiting.submission.tried
        untried: list[ExecutionInstance] = healthy(group, tried) if tried else []
        if not untried or waiting.reserved_for is not None:
            return False
        group_queue.reserve(waiting, untried[0], now + RESERVED_S)
        return True

    def _give_up(self, waiting: Waiting, now: float) -> None:
        self._queue.remove(waiting)
        waiting.submission.refused(deadline_passed(waiting.request, self.retry_after(now)))

    def _drop(self, waiting: Waiting, error: Exception) -> None:
        """The policy failed at this request. It may succeed at those behind it."""
        self._queue.remove(waiting)
        policy = self._selector.policy_for(waiting.request).name
        message = f"the policy {policy} failed; the gateway's log has the traceback"
        waiting.submission.refused(Rejection(Reason.FAILED, message))
        self._hooks.report(error)

    def _set_alarm(self, now: float) -> None:
        if self._hooks.alarm is None or not self._queue.requests:
            return
        at = min(
            self._ledger.silent_prefills.next_at(),
            self._queue.deadlines.first_key(),
            self._selector.resumes_at(now),
        )
        at = min(at, *(queue.wakes_at(now) for queue in self._queue.group_queues.values()))
        if at < self._alarm_at:
            self._alarm_at = at
            self._hooks.alarm(at)
