"""Takes requests, places them or lets them wait, and counts what runs where."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.accounting.ledger import Ledger
from sage_inference.control_plane.accounting.rates import retry_after_s
from sage_inference.control_plane.instances.gpu_sharing import SharedGPU, is_mixed, shared_gpus
from sage_inference.control_plane.instances.load import Placement, as_seen, teaches
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.instances.rejections import unserved
from sage_inference.control_plane.policies.base import PlacementPolicy
from sage_inference.control_plane.queue.entry import Waiting
from sage_inference.control_plane.queue.group_queue import GroupQueue
from sage_inference.control_plane.queue.orders import ORDERS
from sage_inference.control_plane.queue.patience import RESERVED_S, reserved_s
from sage_inference.control_plane.queue.shares import DISPLACED
from sage_inference.control_plane.queue.waiting import Group, Queue
from sage_inference.control_plane.selector import FINISHES, ONLY, Selector, healthy, prefill_ms, uneven_models
from sage_inference.control_plane.slo import milliseconds
from sage_inference.control_plane.slo_table import SloTable
from sage_inference.control_plane.submission import Submission
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    SchedulingDecision,
    SchedulingRequest,
    Usage,
)

_Sent = tuple[Submission, SchedulingDecision, Group, float, Callable[[], None]]


class Scheduler:
    """Places each submitted request, at once or when an instance opens.

    A placed request counts as load of its instance until ``release``. Waiting requests leave by being placed,
    refused, or by ``withdraw``; the caller times them. ``alarm`` is asked to have ``dispatch`` called at a
    time of the clock, instead of at the time it was told before: some requests can be placed then though nothing
    else happens. ``on_placed`` and ``on_end`` are told of attempts. ``later`` puts off what nobody waits for, for
    no longer than what has arrived already takes. ``report`` gets exceptions that concern one request, or none, while
    the manager is at others. ``on_unserved`` is called when no instance serves what a request asks for.
    """

    def __init__(
        self,
        registry: Registry,
        policy: PlacementPolicy,
        limits: LimitSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.limits = limits
        self.ledger = ledger = Ledger()
        self.rates, self.estimates, self.tenants = ledger.rates, ledger.estimates, ledger.tenants
        self.on_placed: Callable[[Placement], None] | None = None
        self.on_end: Callable[[Placement], None] | None = None
        self.alarm: Callable[[float], None] | None = None
        self.later: Callable[[Callable[[], None]], None] = _at_once
        self.report: Callable[[Exception], None] = _raise
        self.on_unserved: Callable[[], None] = _nothing
        self.slos = SloTable(registry)
        ledger.renewed = self._follow_paces
        self.llm_share: float | None = 0.7  # of a shared GPU's time; None: as much as streams need
        self._selector = Selector(policy)
        self._policies: dict[str, PlacementPolicy] = {}  # by the names that they are stated for
        self._queue = Queue(self.tenants, self._selector.prompt_ms)
        self._clock = clock
        self._alarm_at = math.inf
        self._gpus: dict[str, SharedGPU] = {}
        self._seen = -1  # the registry's version
        self._sent: deque[_Sent] = deque()  # and not counted yet
        self._sent_tokens = 0  # of their prompts, at the most

    @property
    def queued(self) -> int:
        return self._queue.requests

    @property
    def queued_bytes(self) -> int:
        return self._queue.bytes

    @property
    def policy(self) -> PlacementPolicy:
        return self._selector.policy

    @property
    def policies(self) -> dict[str, PlacementPolicy]:
        """Those of models that have one of their own, by the names that these are given."""
        return self._policies

    @property
    def uneven(self) -> frozenset[str]:
        """The models whose instances have contexts of different lengths."""
        return self._selector.uneven

    # What the relay calls

    def submit(self, submission: Submission, measure: Callable[[], None] | None = None) -> None:
        """Place the request now, or queue it. Raises ``Rejection`` when neither is possible.

        ``measure`` tells the request what its prompt is like; until then only ``prompt_bytes`` is known. It is
        called before anything is decided by that: where nothing is, when the request was sent already.
        """
        self.rates.submitted += 1
        request = submission.request
        now = self._clock()
        if self.registry.version != self._seen:
            self._regroup(now)
        group = self.registry.group(request.model, request.route)
        if not group:
            raise self._unserved(request)
        if measure is not None:
            if len(group) == 1 and self._fits_anyhow(request, group[0]):
                self._send_first(submission, group, now, measure)
                return
            measure()
        self.settle()
        self.ledger.silent_prefills.catch_up(now)
        if request.slo_deadline_ms is not None:
            self._check_deadline(submission, group, now)
        self._place_or_queue(submission, group, now)

    def goes_at_once(self, request: SchedulingRequest, group: Group) -> bool:
        """Whether it can be sent to the only instance that there is, with nothing to decide: see ``send``."""
        return (
            len(group) == 1 and self.registry.version == self._seen and self._fits_anyhow(request, group[0])
        )

    def send(self, submission: Submission, group: Group, measure: Callable[[], None]) -> None:
        """Place the request; it has just been said that it goes at once."""
        self.rates.submitted += 1
        self._send_first(submission, group, self._clock(), measure)

    def prefer_specialized(self, wanted: bool) -> None:
        """Whether instances for one kind of work go before mixed ones."""
        self._selector.prefers_special = wanted

    def can_retry(self, submission: Submission) -> bool:
        """Whether there is another instance to try, and the retry budget allows it."""
        if not (self.rates.may_retry() or self._lost_its_instance(submission)):
            return False
        return bool(healthy(self._group_of(submission), submission.tried))

    def retry(self, submission: Submission) -> None:
        """Place a released request elsewhere than where it was tried, or queue it again."""
        self.rates.retried += 1
        self.rates.moved += self._lost_its_instance(submission)
        self.go_on(submission)

    def is_lost(self, submission: Submission, instance: ExecutionInstance) -> bool:
        """Whether ``instance`` is out of service while another, not tried yet, is well."""
        if instance.state is EngineState.READY:
            return False
        group = self._group_of(submission)
        return any(i.state is EngineState.READY and i not in submission.tried for i in group)

    def no_larger(self, submission: Submission, instance: ExecutionInstance) -> Group:
        """Those of the group whose context is no larger than the instance's, where a healthy one is larger; otherwise none."""
        model = submission.request.model
        own = instance.context_tokens.get(model, 0) if model in self._selector.uneven else 0
        group = self._group_of(submission) if own else ()
        if not any(i.state is EngineState.READY and i.context_tokens.get(model, 0) > own for i in group):
            return ()
        return tuple(i for i in group if i.context_tokens.get(model, 0) <= own)

    def _lost_its_instance(self, submission: Submission) -> bool:
        return bool(submission.tried) and self.is_lost(submission, submission.tried[-1])

    def _group_of(self, submission: Submission) -> Group:
        return self.registry.group(submission.request.model, submission.request.route)

    def go_on(self, submission: Submission, began_at: ExecutionInstance | None = None) -> None:
        """Place a request that was submitted before: again, or its next leg or call. Raises ``Rejection``.

        ``began_at``: the instance of the call before. Where no instance takes work, one that drains gets the next call
        at once: it finishes what it began.
        """
        request = submission.request
        now = self._clock()
        self._catch_up(now)
        group = self.registry.group(request.model, request.route)
        if group:
            self._place_or_queue(submission, group, now)
        elif began_at is not None and began_at.state is EngineState.DRAINING:
            decision = SchedulingDecision(request.request_id, began_at.instance_id, FINISHES)
            need = self._selector.uncached(request, began_at)
            self._put(submission, decision, began_at, need, (began_at,), now)
        else:
            raise self._unserved(request)

    def resized(self, submission: Submission, tokens: int) -> None:
        """A placed request takes so many tokens: what goes in it was decided after it was placed."""
        if isinstance(submission.load, Placement):
            submission.load.resize(max(1, tokens))

    def first_byte(self, submission: Submission) -> None:
        """The first byte of an answer's body came."""
        if self._sent:
            self.settle()
        placement = submission.load
        if not isinstance(placement, Placement):
            return
        placement.answered_at = now = self._clock()
        if not placement.pending:
            return
        if now >= placement.expected_at:
            placement.presumed_begun()
        else:
            placement.begun(now, teaches(placement.request, placement.instance))
        if self._queue.requests:
            self._catch_up(now)
            self._serve_waiting(now)

    def gap_listener(self, instance: ExecutionInstance) -> Callable[[float], None] | None:
        """Who is to be told the seconds between two chunks of the instance's streams; mostly nobody."""
        shared = self._selector.shared.get(instance)
        return shared.streamed if shared is not None and shared.goes_by_gaps else None

    def release(
        self, submission: Submission, usage: Usage | None = None, outcome: str = "ended", status: int = 0
    ) -> None:
        """The attempt ended, as ``outcome`` says: what it took of its instance is free again."""
        if self._sent:
            self.settle()
        placement = submission.load
        if not isinstance(placement, Placement):
            return
        submission.load = None
        placement.ended()
        self.rates.finished += 1
        placement.ended_at = now = self._clock()
        placement.outcome, placement.status = outcome, status
        if placement.shared is not None:
            placement.shared.ended(placement, placement.request.request_type.is_llm, now)
        if usage is not None:
            self.ledger.used(placement, usage)
        if self.on_end is not None:
            self.on_end(placement)
        if self._queue.requests:
            self._catch_up(now)
            self._serve_waiting(now)

    def withdraw(self, submission: Submission) -> None:
        """The request no longer waits: its caller left or its time is up."""
        waiting = submission.load
        if isinstance(waiting, Waiting):
            self._queue.remove(waiting)
            if waiting.group_queue:  # who stood behind it may need less
                now = self._clock()
                self._serve(waiting.group_queue, now)
                self._set_alarm(now)

    def dispatch(self) -> None:
        """Place what waits and now can be: after a recovery, an added instance, an alarm."""
        now = self._clock()
        self._alarm_at = math.inf  # not only when it is due: a timer may fire a little early
        self._catch_up(now)
        while self._queue.deadlines.first_key() <= now:
            self._give_up(self._queue.deadlines.pop())
        self._serve_waiting(now)

    def retry_after(self) -> int:
        return retry_after_s(self._queue.requests + 1, self.rates.finished_per_s(self._clock()))

    # What the gateway calls

    def instance_down(self, instance: ExecutionInstance) -> None:
        """It died or left: whatever it had cached is gone."""
        self._selector.prefixes.clear(instance)
        instance.load.lost_at = self._clock()

    def stalled(self, lost_s: float) -> None:
        """The process did not run for so long: that time is not the instances', and teaches nothing."""
        now = self._clock()
        for instance in self.registry.instances.values():
            load = instance.load
            load.stalled_at = now
            if load.pending_tokens:
                load.progress_at = min(now, load.progress_at + lost_s)

    def use(self, policy: PlacementPolicy, by_model: dict[str, PlacementPolicy] | None = None) -> None:
        """Change the policy, and those of single models; who waits is sorted anew, nobody is lost."""
        self._selector.policy = policy
        if by_model is not None:
            self._policies = dict(by_model)
        self._regroup(self._clock())

    def _unserved(self, request: SchedulingRequest) -> Rejection:
        self.on_unserved()
        return unserved(self.registry, request)

    # Placing

    def _place_or_queue(self, submission: Submission, group: Group, now: float) -> None:
        if self.slos.differ:
            self.slos.give(submission.request)
        choice = None
        if not self._queue.requests or self._queue.group_queue(group, self._order(submission)) is None:
            choice = self._selector.choose(submission, group, now, True)
            if choice is not None and choice[0] is not None:
                prompt_ms = choice[2] * choice[1].load.ms_per_token
                if prompt_ms <= self.slos.soon_ms or not self._stands_back(submission, prompt_ms, now):
                    self._put(submission, choice[0], choice[1], choice[2], group, now)
                    return
                choice = None
        else:
            submission.request.cached_tokens = self._selector.prefixes.match(submission.request)
        displaced: list[Waiting] | None = []
        if not self._queue.has_room(submission, self.limits):
            displaced = self._queue.make_room(submission, self.limits)
            if displaced is None:
                message = f"{self._queue.requests} requests wait already; try again later"
                raise Rejection(Reason.QUEUE_FULL, message, retry_after_s=self.retry_after())
        waiting = self._queue.add(
            submission, group, self._order(submission), prefill_ms(submission.request, group), now
        )
        if choice is not None:
            waiting.group_queue.reserve(waiting, choice[1], now + reserved_s(submission.request, group, now))
        else:
            self._serve(waiting.group_queue, now)
        if displaced:
            self._turn_away(displaced, now)
        self._set_alarm(now)

    def _turn_away(self, displaced: list[Waiting], now: float) -> None:
        """Refuse requests that were displaced, once the queue is consistent again: a refusal may bring new requests."""
        for group_queue in {waiting.group_queue: None for waiting in displaced}:
            self._serve(group_queue, now)  # requests behind them may need less
        wait_s = self.retry_after()
        for waiting in displaced:
            waiting.submission.refused(Rejection(Reason.QUEUE_FULL, DISPLACED, retry_after_s=wait_s))

    def _fits_anyhow(self, request: SchedulingRequest, only: ExecutionInstance) -> bool:
        """Whether it goes to its only instance at once, even if each byte of its prompt is a token.

        Where its tokens are known already, they count instead.
        """
        most = request.prompt_tokens or request.prompt_bytes
        load, limit = only.load, only.max_concurrent_requests
        if load.pending_tokens + self._sent_tokens + most > load.window_tokens:
            self.settle()  # what was sent has fewer tokens than bytes
            if load.pending_tokens + most > load.window_tokens:
                return False
        heeds_streams = self._selector.heeds_streams(request)
        if heeds_streams:
            self.settle()  # there may be LLM work on the same GPU among it
        return (
            most * load.ms_per_token <= self.slos.soon_ms
            and not (limit and only.active_requests + len(self._sent) >= limit)
            and not self._queue.requests
            and request.slo_deadline_ms is None
            and not (heeds_streams and not self._selector.is_free(request, only))
        )

    def _stands_back(self, submission: Submission, prompt_ms: float, now: float) -> bool:
        """Whether it is late from the start, and so takes what can be spared; the lane sees to that."""
        order = ORDERS[self._order(submission)]
        return order.place(submission.request, prompt_ms)[2] <= now and self._queue.has_room(
            submission, self.limits
        )

    def _order(self, submission: Submission) -> str:
        return self._selector.policy_for(submission.request).order

    def _send_first(
        self, submission: Submission, group: Group, now: float, measure: Callable[[], None]
    ) -> None:
        """There is nothing to decide: what is to be known and written down can wait until the engine is at work."""
        request, only = submission.request, group[0]
        decision = SchedulingDecision(request.request_id, only.instance_id, ONLY)
        submission.placed(only, decision)
        self._sent.append((submission, decision, group, now, measure))
        self._sent_tokens += request.prompt_tokens or request.prompt_bytes
        if len(self._sent) == 1:
            self.later(self.settle)

    def settle(self) -> None:
        """Count what was sent first: before anything else is decided, or looked at."""
        sent = self._sent
        if not sent:
            return
        while sent:
            submission, decision, group, now, measure = sent.popleft()
            try:
                measure()
                if self.slos.differ:
                    self.slos.give(submission.request)
                need = self._selector.uncached(submission.request, group[0])
                self._write_down(self._count(submission, decision, group[0], need, group, now), need, now)
            except Exception as error:
                self.report(error)
        self._sent_tokens = 0
        self.ledger.silent_prefills.catch_up(now)

    def _put(
        self,
        submission: Submission,
        decision: SchedulingDecision,
        instance: ExecutionInstance,
        need: int,
        group: Group,
        now: float,
        overdue: bool = False,
    ) -> None:
        placement = self._count(submission, decision, instance, need, group, now)
        if overdue:
            placement.count_as_overdue()
        submission.placed(instance, decision)
        try:
            self._write_down(placement, need, now)
        except Exception as error:
            self.report(error)  # it is on its way all the same

    def _count(
        self,
        submission: Submission,
        decision: SchedulingDecision,
        instance: ExecutionInstance,
        need: int,
        group: Group,
        now: float,
    ) -> Placement:
        """From here on it is load of the instance."""
        request, gpus = submission.request, self._selector.shared
        seen = () if self.on_placed is None else as_seen(group)
        placement = submission.load = Placement(
            instance, need if need > 0 else 1, now, request, decision, seen
        )
        if gpus and (shared := gpus.get(instance)):
            placement.shared = shared
            shared.began(placement, request.request_type.is_llm)
        return placement

    def _write_down(self, placement: Placement, need: int, now: float) -> None:
        """What nobody waits for."""
        self.ledger.placed(placement, need, now)
        if placement.request.prompt_blocks:
            self._selector.prefixes.add(placement.instance, placement.request)
        if self.on_placed is not None:
            self.on_placed(placement)

    def _serve_waiting(self, now: float) -> None:
        """Place from every lane what can be."""
        for group_queue in list(self._queue.group_queues.values()):
            self._serve(group_queue, now)
        self._set_alarm(now)

    def _serve(self, group_queue: GroupQueue, now: float) -> None:
        # Each turn asks the lane anew: placing a request may end others, or bring new ones.
        for instance in group_queue.reserved_instances():
            # Only the last of a group is tried while it is down, and nobody is held for that one.
            while (
                instance.state is EngineState.READY
                and (waiting := group_queue.reserved(instance)) is not None
                and self._try(waiting, (instance,), now)
            ):
                pass
        while (next_ := group_queue.next(now)) is not None and self._try(next_, group_queue.group, now):
            pass

    def _try(self, waiting: Waiting, group: Group, now: float) -> bool:
        """Place a waiting request, or hold it; False: it stays where it is, and so do those behind it."""
        group_queue, request = waiting.group_queue, waiting.request
        overdue = waiting.overdue and request.request_type.is_llm
        try:
            choice = self._selector.choose(waiting.submission, group, now, waiting.patient, overdue)
        except Exception as error:
            self._drop(waiting, error)
            return True
        if choice is None:
            untried = healthy(group, waiting.submission.tried) if waiting.submission.tried else ()
            if not untried or waiting.reserved_for is not None:
                return False
            # It may not go back where it failed: others, who may, must not wait behind it.
            group_queue.reserve(waiting, untried[0], now + RESERVED_S)
            return True
        decision, instance, need = choice
        if decision is None:
            group_queue.reserve(waiting, instance, now + reserved_s(request, group, now))
            return True
        self._queue.remove(waiting)
        self.tenants.left(request.tenant)
        group_queue.placed(waiting)
        self._put(waiting.submission, decision, instance, need, group_queue.group, now, overdue)
        return True

    # Books

    def _catch_up(self, now: float) -> None:
        """Take note of what changed without a call: instances, prompts that should be done by now, what was sent."""
        self.settle()
        if self.registry.version != self._seen:
            self._regroup(now)
        self.ledger.silent_prefills.catch_up(now)

    def _regroup(self, now: float) -> None:
        self._seen = self.registry.version
        instances = self.registry.instances.values()
        self._selector.mixed = any(is_mixed(i) for i in instances)
        self._selector.uneven = uneven_models(instances)
        stated = self.registry.by_served_model(self._policies)
        self._selector.by_model = {model: policy for model, (_, policy) in stated.items()}
        self.ledger.relative.regroup(instances)
        self._selector.shared = shared_gpus(instances, self.llm_share, self._gpus)
        self.slos.renew()
        self._share_by_slos()

        def place(waiting: Waiting) -> tuple[Group, str, float]:
            request = waiting.request
            self.slos.give(request)
            waiting.heed_slo()
            group = self.registry.group(request.model, request.route)
            return group, self._selector.policy_for(request).order, prefill_ms(request, group)

        for stranded in self._queue.regroup(place, now):
            self._queue.remove(stranded)
            stranded.submission.refused(self._unserved(stranded.request))

    def _follow_paces(self) -> None:
        """Paces were learned anew: SLOs that nobody set go by them. Requests that wait keep theirs."""
        if self.slos.follow():
            self._share_by_slos()

    def _share_by_slos(self) -> None:
        """Streams that share a GPU are to keep their model's time of a token."""
        wanted: dict[SharedGPU, float] = {}
        for instance, shared in self._selector.shared.items():
            if instance.instance_type.serves_llm and instance.models:
                tpot_ms = min(self.slos.of(model).tpot_ms for model in instance.models)
                wanted[shared] = min(tpot_ms, wanted.get(shared, tpot_ms))
        for shared, tpot_ms in wanted.items():
            shared.tpot_s = tpot_ms / 1000

    def _check_deadline(self, submission: Submission, group: Group, now: float) -> None:
        """Raises ``Rejection`` for a deadline that cannot be met even if all goes well."""
        request = submission.request
        assert request.slo_deadline_ms is not None
        soonest = self._selector.soonest_ms(request, group, now)
        order = self._selector.policy_for(request).order
        group_queue = self._queue.group_queue(group, order)
        if group_queue is not None and order == "fifo":
            soonest += group_queue.tokens * min(i.load.ms_per_token for i in group) / len(group)
        soonest += (now - request.arrived) * 1000  # a deadline counts from the arrival
        if soonest > request.slo_deadline_ms:
            within, needed = milliseconds(request.slo_deadline_ms), milliseconds(soonest)
            message = f"no first byte can be had within {within}; about {needed} are needed now"
            raise Rejection(Reason.DEADLINE, message, retry_after_s=self.retry_after())

    def _give_up(self, waiting: Waiting) -> None:
        self._queue.remove(waiting)
        deadline_ms = waiting.request.slo_deadline_ms
        assert deadline_ms is not None
        message = f"no instance was free within the deadline of {milliseconds(deadline_ms)}"
        waiting.submission.refused(Rejection(Reason.DEADLINE, message, retry_after_s=self.retry_after()))

    def _drop(self, waiting: Waiting, error: Exception) -> None:
        """The policy failed at it: those behind it may do better."""
        self._queue.remove(waiting)
        message = f"the policy {self._selector.policy_for(waiting.request).name} failed; the gateway's log has the traceback"
        waiting.submission.refused(Rejection(Reason.FAILED, message))
        self.report(error)

    def _set_alarm(self, now: float) -> None:
        if self.alarm is None or not self._queue.requests:
            return
        at = min(
            self.ledger.silent_prefills.next_at(),
            self._queue.deadlines.first_key(),
            self._selector.resumes_at(now),
        )
        at = min(at, *(group_queue.wakes_at(now) for group_queue in self._queue.group_queues.values()))
        if at < self._alarm_at:
            self._alarm_at = at
            self.alarm(at)


def _nothing() -> None: ...


def _raise(error: Exception) -> None:
    raise error


def _at_once(note: Callable[[], None]) -> None:
    note()
