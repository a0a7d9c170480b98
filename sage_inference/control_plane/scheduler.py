"""The scheduler: places requests or lets them wait, and counts what runs where."""

from __future__ import annotations

import time
from collections.abc import Callable

from sage_inference.control_plane.accounting import lone_prompts
from sage_inference.control_plane.accounting.ledger import Ledger
from sage_inference.control_plane.accounting.retry_budget import may_retry
from sage_inference.control_plane.dispatcher import Dispatcher
from sage_inference.control_plane.instances.gpu_sharing import SharedGPU, is_mixed, keep_tpot, shared_gpus
from sage_inference.control_plane.instances.load import Placement, teaches
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.instances.rejections import unserved
from sage_inference.control_plane.placer import Placer
from sage_inference.control_plane.policies.base import PlacementPolicy
from sage_inference.control_plane.queue.request_queue import RequestQueue
from sage_inference.control_plane.selector import (
    FINISHES,
    Selector,
    healthy,
    prefill_ms,
    uneven_models,
)
from sage_inference.control_plane.sent_first import SentFirst
from sage_inference.control_plane.setup import Hooks, SchedulerSettings
from sage_inference.control_plane.slo import milliseconds
from sage_inference.control_plane.slo_table import SloTable
from sage_inference.control_plane.submission import Group, Submission, Waiting
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    SchedulingDecision,
    SchedulingRequest,
    Usage,
)


class Scheduler:
    """Places each submitted request, at once or when an instance opens.

    A placed request is load of its instance until ``release``. A waiting request leaves by being placed, refused, or
    withdrawn. The scheduler does not time requests that wait without a deadline: the caller withdraws them.
    """

    def __init__(
        self,
        registry: Registry,
        policy: PlacementPolicy,
        settings: SchedulerSettings,
        clock: Callable[[], float] = time.monotonic,
        hooks: Hooks | None = None,
    ) -> None:
        self.registry = registry
        self.ledger = ledger = Ledger()
        self.rates, self.estimates, self.tenants = ledger.rates, ledger.estimates, ledger.tenants
        self.slos = SloTable(registry)
        ledger.renewed = self._follow_paces
        self._hooks = hooks = hooks or Hooks()
        self._clock = clock
        self._selector = Selector(policy)
        self._policies: dict[str, PlacementPolicy] = {}  # by the names that the configuration gives to models
        self._queue = RequestQueue(self.tenants, self._selector.prompt_ms)
        self._placer = Placer(self._selector, ledger, hooks)
        self._put = self._placer.put  # bound once, because every decision calls it
        self._first = SentFirst(self._selector, self._queue, self._placer, ledger, self.slos, hooks)
        self._sent = self._first.sent  # the same deque, so that no call is needed to see whether it is empty
        self._silent = ledger.silent_prefills.heap  # the same list, for the same reason
        self._dispatcher = Dispatcher(
            self._selector, self._queue, self._placer, ledger, hooks, settings.limits
        )
        self._gpus: dict[str, SharedGPU] = {}
        self._seen = -1  # the version of the registry that the groups follow
        self.configure(settings)

    # Configuration

    def configure(self, settings: SchedulerSettings) -> None:
        """Follow other settings from now on. Requests that wait are sorted again at the next event."""
        self.settings = settings
        self._dispatcher.limits = settings.limits
        self.slos.configure(settings.slo)
        self.ledger.reads_all_usage = settings.reads_all_usage
        self.tenants.weights = dict(settings.weights)
        self._selector.prefers_special = settings.prefers_specialized
        self._seen = -1  # groups and orders follow from the settings: derive them again

    def use(self, policy: PlacementPolicy, by_model: dict[str, PlacementPolicy] | None = None) -> None:
        """Change the policy, and those of single models. Requests that wait are sorted again, and none is lost."""
        self._selector.policy = policy
        if by_model is not None:
            self._policies = dict(by_model)
        self._regroup(self._clock())

    def watch(
        self, placed: Callable[[Placement], None] | None, ended: Callable[[Placement], None] | None = None
    ) -> None:
        """Call ``placed`` for each attempt that begins, and ``ended`` for each that ends, instead of those before."""
        self._hooks.placed, self._hooks.ended = placed, ended

    def when_unserved(self, call: Callable[[], None]) -> None:
        """Call this when no instance serves what a request asks for."""
        self._hooks.unserved = call

    def notify_unserved(self) -> None:
        self._hooks.unserved()

    # Figures

    @property
    def queued(self) -> int:
        return self._queue.requests

    @property
    def queued_bytes(self) -> int:
        return self._queue.bytes

    def waiting(self) -> list[Waiting]:
        """The requests that wait, by group."""
        return self._queue.everyone()

    @property
    def policy(self) -> PlacementPolicy:
        return self._selector.policy

    @property
    def policies(self) -> dict[str, PlacementPolicy]:
        """The policies of models that have one of their own, by the names that the configuration gives to them."""
        return self._policies

    def policy_name(self, request: SchedulingRequest) -> str:
        """The name of the policy that places the request."""
        return self._selector.policy_for(request).name

    @property
    def gpus(self) -> dict[str, SharedGPU]:
        """The GPUs that LLM and embedding work share, by name."""
        return self._gpus

    @property
    def uneven(self) -> frozenset[str]:
        """The models whose instances have contexts of different lengths."""
        return self._selector.uneven

    def retry_after(self) -> int:
        return self._dispatcher.retry_after(self._clock())

    # The life of a request

    def submit(self, submission: Submission, measure: Callable[[], None] | None = None) -> None:
        """Place the request now, or queue it. Raises ``Rejection`` if neither is possible.

        ``measure`` sets the size and the blocks of the prompt; until then only ``prompt_bytes`` is known. It is called
        before a decision that needs them. If nothing is to be decided, it is called after the request was sent.
        """
        self.rates.submitted += 1
        request = submission.request
        now = self._clock()
        # No event reports a change of the registry. Without this the group could have an instance that left.
        if self.registry.version != self._seen:
            self._regroup(now)
        group = self.registry.group(request.model, request.route)
        if not group:
            raise self._unserved(request)
        if measure is not None:
            # With one instance nothing depends on the prompt: the engine can work on it while it is measured here.
            if len(group) == 1 and self._first.fits(request, group[0]):
                self._first.send(submission, group, now, measure)
                return
            measure()
        # The decision must see what was sent first as load, and prefills that should have ended as load no more.
        if self._sent:
            self._first.settle()
        if self._silent:
            self.ledger.silent_prefills.catch_up(now)
        if request.slo_deadline_ms is not None:
            self._check_deadline(request, group, now)
        self._place_or_queue(submission, group, now)

    def goes_at_once(self, request: SchedulingRequest, group: Group) -> bool:
        """Whether ``send`` may be called: the group has one instance, and there is nothing to decide."""
        return len(group) == 1 and self.registry.version == self._seen and self._first.fits(request, group[0])

    def send(self, submission: Submission, group: Group, measure: Callable[[], None]) -> None:
        """Place a request for which ``goes_at_once`` has just returned True."""
        self.rates.submitted += 1
        self._first.send(submission, group, self._clock(), measure)

    def go_on(self, submission: Submission, began_at: ExecutionInstance | None = None) -> None:
        """Place a request that was submitted before: again, or its next leg or call. Raises ``Rejection``.

        ``began_at`` is the instance of the call before. If no instance takes work, a draining one gets the next call at
        once, because it finishes what it began.
        """
        request = submission.request
        now = self._clock()
        self._catch_up(now)
        group = self.registry.group(request.model, request.route)
        if group:
            self._place_or_queue(submission, group, now)
        elif began_at is not None and began_at.state is EngineState.DRAINING:
            decision = SchedulingDecision(request.request_id, began_at.instance_id, FINISHES)
            need = self._selector.look_up(request, began_at)
            self._put(submission, decision, began_at, need, (began_at,), now)
        else:
            raise self._unserved(request)

    def resized(self, submission: Submission, tokens: int) -> None:
        """A placed request takes so many tokens: its texts were chosen after it was placed."""
        if isinstance(submission.place, Placement):
            submission.place.resize(max(1, tokens))

    def first_byte(self, submission: Submission) -> None:
        """The first byte of an answer's body arrived."""
        if self._sent:
            self._first.settle()
        placement = submission.place
        if not isinstance(placement, Placement):
            return
        placement.answered_at = now = self._clock()
        if not placement.pending:
            return
        if now >= placement.expected_at:
            # An answer in one piece: the time until its first byte is that of the whole answer, and no pace of prompts.
            placement.presumed_begun()
        else:
            placement.begun(now, teaches(placement.request, placement.instance))
        # A prompt that began leaves room in the window of its instance.
        if self._queue.requests:
            self._catch_up(now)
            self._dispatcher.serve_all(now)

    def release(
        self, submission: Submission, usage: Usage | None = None, outcome: str = "ended", status: int = 0
    ) -> None:
        """The attempt ended with this ``outcome``: its slot and its pending tokens are free again."""
        if self._sent:
            self._first.settle()
        placement = submission.place
        if not isinstance(placement, Placement):
            return
        # The slot first: if a record or a watcher fails below, the slot must not be lost.
        submission.place = None
        now = self._clock()
        placement.ended(now)
        self.rates.finished += 1
        placement.outcome, placement.status = outcome, status
        if placement.shared is not None:
            placement.shared.ended(placement, placement.request.request_type.is_llm, now)
        if placement.alone_ms:
            lone_prompts.learn(placement)
        if usage is not None:
            self.ledger.used(placement, usage)
        if self._hooks.ended is not None:
            self._hooks.ended(placement)
        if self._queue.requests:
            self._catch_up(now)
            self._dispatcher.serve_all(now)

    def withdraw(self, submission: Submission) -> None:
        """The request no longer waits: its caller left, or its time is up."""
        waiting = submission.place
        if isinstance(waiting, Waiting):
            self._dispatcher.withdraw(waiting, self._clock())

    def dispatch(self) -> None:
        """Place what waits and can be placed now: after a recovery, with a new instance, at an alarm."""
        now = self._clock()
        self._catch_up(now)
        self._dispatcher.dispatch(now)

    def gap_listener(self, submission: Submission) -> Callable[[float, float], None] | None:
        """A function for the seconds between two chunks of the stream, and the time now; None if not needed."""
        placement = submission.place
        if not isinstance(placement, Placement) or placement.shared is None:
            return None
        return placement.shared.listener(placement)

    # Retries

    def can_retry(self, submission: Submission) -> bool:
        """Whether another instance is left to try, within the retry budget."""
        # An instance that is lost loses all its requests at once, and the budget would fail most of them.
        if not (may_retry(self.rates) or self._lost_its_instance(submission)):
            return False
        return bool(healthy(self._group_of(submission), submission.tried))

    def retry(self, submission: Submission) -> None:
        """Place a released request on an instance that it has not tried, or queue it again."""
        self.rates.retried += 1
        self.rates.moved += self._lost_its_instance(submission)
        self.go_on(submission)

    def is_lost(self, submission: Submission, instance: ExecutionInstance) -> bool:
        """Whether ``instance`` is out of service while another one, not tried yet, is well."""
        if instance.state is EngineState.READY:
            return False
        # The last instance of a group is never lost: a request there may still get its answer.
        group = self._group_of(submission)
        return any(i.state is EngineState.READY and i not in submission.tried for i in group)

    def no_larger(self, submission: Submission, instance: ExecutionInstance) -> Group:
        """The instances whose context is no larger than that of ``instance``; none unless a healthy one is larger."""
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

    # Events of instances and of the process

    def instance_down(self, instance: ExecutionInstance) -> None:
        """The instance died or left, and its prefix cache with it."""
        self._selector.prefixes.clear(instance)
        instance.load.lost_at = self._clock()

    def stalled(self, lost_s: float) -> None:
        """The process did not run for so long. No pace may be learned from that time."""
        now = self._clock()
        for instance in self.registry.instances.values():
            load = instance.load
            load.stalled_at = now
            # The engines went on meanwhile, so their prompts would seem to have taken that time as well.
            if load.pending_tokens:
                load.progress_at = min(now, load.progress_at + lost_s)

    # Admission

    def _place_or_queue(self, submission: Submission, group: Group, now: float) -> None:
        # Mostly all SLOs are the default, which requests need not carry.
        if self.slos.differ:
            self.slos.give(submission.request)
        choice = None
        if not self._queue.requests or self._queue.group_queue(group, self._order(submission)) is None:
            choice = self._selector.choose(submission, group, now, True)
            if choice is not None and choice[0] is not None:
                prompt_ms = choice[2] * choice[1].load.ms_per_token
                # Most prompts are short. Only a long one may be overdue at once, or slow streams down.
                if prompt_ms > self.slos.short_ms:
                    order = self._order(submission)
                    choice = self._dispatcher.for_long(submission, group, order, choice, prompt_ms, now)
                if choice is not None and choice[0] is not None:
                    self._put(submission, choice[0], choice[1], choice[2], group, now)
                    return
        else:
            # Others wait already: this one must not pass them. Its place depends on what is cached of its prompt.
            submission.request.cached_tokens = self._selector.prefixes.match(submission.request)
        self._dispatcher.add(submission, group, self._order(submission), choice, now)

    def _order(self, submission: Submission) -> str:
        return self._selector.policy_for(submission.request).order

    def _check_deadline(self, request: SchedulingRequest, group: Group, now: float) -> None:
        """Raises ``Rejection`` for a deadline that cannot be met even if all goes well."""
        assert request.slo_deadline_ms is not None
        soonest = self._selector.soonest_ms(request, group, now)
        order = self._selector.policy_for(request).order
        group_queue = self._queue.group_queue(group, order)
        if group_queue is not None and order == "fifo":
            # Only in order of arrival is all that waits certainly served first.
            soonest += group_queue.tokens * min(i.load.ms_per_token for i in group) / len(group)
        soonest += (now - request.arrived) * 1000  # a deadline counts from the arrival
        if soonest > request.slo_deadline_ms:
            within, needed = milliseconds(request.slo_deadline_ms), milliseconds(soonest)
            message = f"no first byte can be had within {within}; about {needed} are needed now"
            raise Rejection(Reason.DEADLINE, message, retry_after_s=self.retry_after())

    def _unserved(self, request: SchedulingRequest) -> Rejection:
        self._hooks.unserved()
        return unserved(self.registry, request)

    # Changes that no call reports

    def _catch_up(self, now: float) -> None:
        """Follow what changed meanwhile: requests sent first, instances, prompts that should be done by now."""
        self._first.settle()
        if self.registry.version != self._seen:
            self._regroup(now)
        self.ledger.silent_prefills.catch_up(now)

    def _regroup(self, now: float) -> None:
        """Instances, settings or policies changed: derive again what follows from them."""
        # First, because a refusal below may bring a new request, and that must not start this again.
        self._seen = self.registry.version
        selector, instances = self._selector, self.registry.instances.values()
        selector.mixed = any(is_mixed(i) for i in instances)
        selector.uneven = uneven_models(instances)
        stated = self.registry.by_served_model(self._policies)
        selector.by_model = {model: policy for model, (_, policy) in stated.items()}
        self.ledger.relative.regroup(instances)
        selector.shared = shared_gpus(instances, self.settings.llm_share, self._gpus)
        self.slos.renew()
        keep_tpot(selector.shared, self.slos.tpot_ms)

        def place(waiting: Waiting) -> tuple[Group, str, float]:
            request = waiting.request
            self.slos.give(request)
            group = self.registry.group(request.model, request.route)
            return group, selector.policy_for(request).order, prefill_ms(request, group)

        self._dispatcher.regroup(place, self._unserved, now)

    def _follow_paces(self) -> None:
        """Paces were learned: default SLOs follow them. Requests that wait keep theirs."""
        if self.slos.follow():
            keep_tpot(self._selector.shared, self.slos.tpot_ms)
