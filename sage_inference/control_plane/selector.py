"""Chooses an instance for one request: those that may take it, the policy's choice, and whether that one is open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from sage_inference.control_plane import cost
from sage_inference.control_plane.accounting.prompt_share import can_spare, is_harmful
from sage_inference.control_plane.cost import uncached
from sage_inference.control_plane.instances.gpu_sharing import SharedGPU, is_mixed
from sage_inference.control_plane.instances.load import backlog_ms, has_slot, is_open
from sage_inference.control_plane.instances.prefill_decode import original_of
from sage_inference.control_plane.policies.base import PlacementPolicy
from sage_inference.control_plane.prefix_index import PrefixIndex
from sage_inference.control_plane.slo import ttft_s
from sage_inference.control_plane.submission import Submission
from sage_inference.types import (
    NOTHING_CACHED,
    EngineState,
    ExecutionInstance,
    SchedulingDecision,
    SchedulingRequest,
)

_READY = EngineState.READY
# Reasons of a decision that no policy took.
ONLY, FINISHES = "only instance", "finishes what it began"
# A prompt estimated at so many times the length of a context is not sent there. Below that the estimate may be wrong, and
# asking the engine is cheap: it refuses before any work, and the request then goes to a larger instance.
SURELY_TOO_LONG = 1.5

# Windows of pending tokens up to which a closed instance still gets a prompt that it has cached.
BEYOND = 2
WARM = 0.7  # of a prompt uncached, at the most, makes an instance worth waiting for
# The decision, the instance, and the prompt tokens that it has not cached. Without a decision the instance is closed, and
# the request is to be reserved for it.
Choice = tuple[SchedulingDecision | None, ExecutionInstance, int]


class Selector:
    """``shared`` and ``mixed`` concern GPUs that LLM and embedding work share; most fleets have none."""

    def __init__(self, policy: PlacementPolicy) -> None:
        self.policy = policy
        self.by_model: dict[str, PlacementPolicy] = {}
        self.prefixes = PrefixIndex()
        self.shared: dict[ExecutionInstance, SharedGPU] = {}
        self.mixed = False
        self.uneven: frozenset[str] = frozenset()  # models whose instances have contexts of different lengths
        self.prefers_special = True  # over mixed instances

    def policy_for(self, request: SchedulingRequest) -> PlacementPolicy:
        if not self.by_model:
            return self.policy
        return self.by_model.get(request.model, self.policy)

    def heeds_streams(self, request: SchedulingRequest) -> bool:
        """Whether the request may have to wait for LLM work on its GPU."""
        return bool(self.shared) and not request.request_type.is_llm

    def is_free(self, request: SchedulingRequest, instance: ExecutionInstance) -> bool:
        """Whether the request need not wait for work of the other kind."""
        if not self.heeds_streams(request):
            return True
        shared = self.shared.get(instance)
        return shared is None or not shared.llm

    def choose(
        self,
        submission: Submission,
        group: Sequence[ExecutionInstance],
        now: float,
        patient: bool,
        overdue: bool = False,
    ) -> Choice | None:
        """None if the request has to wait. A ``patient`` one may be reserved for a closed instance that is warm.

        An ``overdue`` one gets only what an instance can spare.
        """
        request = submission.request
        if len(group) == 1 and self.is_free(request, group[0]):
            # Healthy or not, there is no other.
            return self._only_overdue(request, group[0], now) if overdue else self._only(request, group[0])
        candidates: Sequence[ExecutionInstance] = group
        # A loop, because it makes no list and no call in the usual case that all are ready and alike.
        usual = not (submission.tried or self.uneven or self.shared or self.mixed)
        for instance in group:
            if instance.state is not _READY:
                usual = False
                break
        if not usual:
            candidates = self._narrowed(submission, group, now)
        request.cached_tokens = self.prefixes.match(request)
        # Among those that can spare it the policy is free, as for requests in time.
        if overdue:
            candidates = [
                i for i in candidates if can_spare(i, i.load.ms_per_token * uncached(request, i), now)
            ]
        if not candidates:
            return None
        if len(candidates) == 1:
            return self._only(request, candidates[0])  # no policy can choose another
        # Most gateways have one policy: no call for these.
        policy = self.policy_for(request) if self.by_model else self.policy
        choice = _ask(policy, request, candidates)
        if choice is None or is_open(choice[1], choice[2]):
            return choice
        # Overdue requests get what can be spared, and nothing is held back for them.
        is_sticky = policy.sticky and not overdue
        return self._closed(policy, request, candidates, choice, now, is_sticky, patient)

    def choose_harmless(
        self, submission: Submission, group: Sequence[ExecutionInstance], now: float
    ) -> tuple[SchedulingDecision, ExecutionInstance, int] | None:
        """The choice for a long prompt in time, where it takes no stream its SLO."""
        request = submission.request
        harmless = [
            i
            for i in able(group, submission.tried)
            if not is_harmful(request, i, i.load.ms_per_token * uncached(request, i), now)
        ]
        choice = self.choose(submission, harmless, now, False) if harmless else None
        if choice is None or choice[0] is None:
            return None
        return choice[0], choice[1], choice[2]

    def _narrowed(
        self, submission: Submission, group: Sequence[ExecutionInstance], now: float
    ) -> Sequence[ExecutionInstance]:
        """The instances that may take the request now, where some are not ready or they are not all alike."""
        request = submission.request
        candidates: Sequence[ExecutionInstance] = [i for i in group if i.state is _READY]
        if not candidates or submission.tried:
            candidates = able(group, submission.tried)
        if self.uneven and request.model in self.uneven:
            candidates = _fitting(request, candidates)
        if self.shared or self.mixed:
            candidates = self._spare_streams(request, candidates, now)
        return candidates

    def _closed(
        self,
        policy: PlacementPolicy,
        request: SchedulingRequest,
        candidates: Sequence[ExecutionInstance],
        choice: Choice,
        now: float,
        is_sticky: bool,
        patient: bool,
    ) -> Choice | None:
        """The policy's ``choice`` is closed: reserve the request for it, take an open instance, or send it all the same."""
        is_warm = is_sticky and bool(request.cached_tokens) and choice[2] < WARM * request.prompt_tokens
        # Once only: the second time the request takes what is open, or it would wait for ever beside idle instances.
        if is_warm and patient:
            return None, choice[1], choice[2]
        # The policy is asked again, because what is open may have nothing of the prompt cached.
        open_ = [i for i in candidates if is_open(i, uncached(request, i))]
        elsewhere = _ask(policy, request, open_) if open_ else None
        if is_warm and elsewhere is not None and _is_sooner(request, choice[1], elsewhere[1], now):
            return choice
        return elsewhere

    def soonest_ms(self, request: SchedulingRequest, group: Sequence[ExecutionInstance], now: float) -> float:
        """The soonest first byte that the group could give to the request."""
        request.cached_tokens = self.prefixes.match(request)
        return min(
            cost.expected_ms(i.load.ms_per_token, backlog_ms(i.load, now), uncached(request, i), i.load.alone)
            for i in healthy(group, ())
        )

    def resumes_at(self, now: float) -> float:
        """The time when the next paused GPU takes embeddings again; infinite while none is paused."""
        return min((each.resumes_at for each in self.shared.values() if each.resumes_at > now), default=inf)

    def look_up(self, request: SchedulingRequest, only: ExecutionInstance) -> int:
        """Look the prompt up in the prefix index; returns the tokens that its only instance has not cached."""
        # Without a call for a short prompt, which has no blocks.
        cached = request.cached_tokens = (
            self.prefixes.match(request) if request.prompt_blocks else NOTHING_CACHED
        )
        # ``uncached``, without its call and its look-up for a prompt that no instance has cached.
        return request.prompt_tokens - cached.get(only, 0) if cached else request.prompt_tokens

    def prompt_ms(self, request: SchedulingRequest, group: Sequence[ExecutionInstance]) -> float:
        """The milliseconds that the prompt takes on the fastest instance, with the prefixes that are cached now."""
        request.cached_tokens = self.prefixes.match(request)
        return prefill_ms(request, group)

    def _only_overdue(self, request: SchedulingRequest, only: ExecutionInstance, now: float) -> Choice | None:
        prompt_ms = only.load.ms_per_token * self.look_up(request, only)
        return self._only(request, only) if can_spare(only, prompt_ms, now) else None

    def _only(self, request: SchedulingRequest, only: ExecutionInstance) -> Choice | None:
        need = self.look_up(request, only)
        if not is_open(only, need):
            return None
        return SchedulingDecision(request.request_id, only.instance_id, ONLY), only, need

    def _spare_streams(
        self, request: SchedulingRequest, candidates: Sequence[ExecutionInstance], now: float
    ) -> Sequence[ExecutionInstance]:
        """Specialized instances while they are in time, if they are preferred; embeddings where streams allow them."""
        if self.mixed and self.prefers_special:
            special = [i for i in candidates if not is_mixed(i)]
            # In time only: specialized instances that are late would leave the mixed ones idle.
            if 0 < len(special) < len(candidates) and first_byte_ms(request, special, now) <= (
                ttft_s(request) * 1000
            ):
                candidates = special
        # Only embeddings stand back: streams cannot be paused.
        if self.heeds_streams(request):
            shared = self.shared
            return [i for i in candidates if i not in shared or shared[i].may_embed(now)]
        return candidates


def uneven_models(instances: Iterable[ExecutionInstance]) -> frozenset[str]:
    """The models whose instances report contexts of different lengths."""
    lengths: dict[str, set[int]] = {}
    for instance in instances:
        for model, length in instance.context_tokens.items():
            lengths.setdefault(model, set()).add(length)
    return frozenset(model for model, found in lengths.items() if len(found) > 1)


def _fitting(
    request: SchedulingRequest, candidates: Sequence[ExecutionInstance]
) -> Sequence[ExecutionInstance]:
    """The instances whose context may hold prompt and answer; all of them if none may, because estimates may be wrong.

    A request that states the length of its answer is refused if that is one token too long. So instances where prompt and
    answer fit by the estimate come first. Without a stated length the engine uses what is left of its context.
    """
    original = original_of(request)
    output, prompt = original.output_tokens, original.prompt_tokens
    fewest = prompt / SURELY_TOO_LONG + output
    if output and (fitting := _with_context(candidates, request.model, prompt + output)):
        return fitting
    return _with_context(candidates, request.model, fewest) or candidates


def _with_context(
    candidates: Sequence[ExecutionInstance], model: str, tokens: float
) -> Sequence[ExecutionInstance]:
    """The instances that may have a context of so many tokens. Some engines do not report theirs."""
    return [i for i in candidates if i.context_tokens.get(model, tokens) >= tokens]


def _ask(
    policy: PlacementPolicy, request: SchedulingRequest, candidates: Sequence[ExecutionInstance]
) -> Choice | None:
    for decision in policy.schedule((request,), candidates):
        if decision.request_id != request.request_id:
            continue
        target = decision.target
        # Policies may name an instance by its id alone, and policies of programs may name one that was not offered.
        if target is None or target not in candidates:
            named = decision.target_instance_id
            target = next((i for i in candidates if i.instance_id == named), None)
        if target is not None:
            # ``uncached``, without its call: every decision comes here.
            return decision, target, request.prompt_tokens - request.cached_tokens.get(target, 0)
    return None


def _is_sooner(
    request: SchedulingRequest, warm: ExecutionInstance, other: ExecutionInstance, now: float
) -> bool:
    """Whether a closed instance that has the prompt cached answers sooner than an open one that has not.

    If it does, a second engine need not compute the same prompt at the cost of all other requests. There are two limits.
    A request that waits in an engine can no longer be ordered, so the engine gets at most ``BEYOND`` windows. An instance
    that should be done with its prompts and is not may be stuck.
    """
    load, need = warm.load, uncached(request, warm)
    return (
        has_slot(warm)
        and load.pending_tokens + need <= BEYOND * load.window_tokens
        and backlog_ms(load, now) > 0.0
        and first_byte_ms(request, (warm,), now) <= first_byte_ms(request, (other,), now)
    )


def healthy(
    group: Sequence[ExecutionInstance], tried: Sequence[ExecutionInstance]
) -> list[ExecutionInstance]:
    """The healthy instances not tried yet; if none is healthy, any not tried yet.

    An attempt that may fail is better for a caller than a certain 503. It also shows at once that an engine is back.
    """
    ready = [i for i in group if i.state is _READY] or list(group)
    return [i for i in ready if i not in tried] if tried else ready


def able(
    group: Sequence[ExecutionInstance], tried: Sequence[ExecutionInstance]
) -> Sequence[ExecutionInstance]:
    """The instances that may take a request, of a group that is whole.

    An instance where the request failed is better than none: the others may have left meanwhile.
    """
    return healthy(group, tried) or healthy(group, ())


def prefill_ms(request: SchedulingRequest, group: Sequence[ExecutionInstance]) -> float:
    """The time of the prompt itself on the instance where that is shortest."""
    return min([cost.prefill_ms(i.load.ms_per_token, uncached(request, i)) for i in group], default=0.0)


def first_byte_ms(request: SchedulingRequest, instances: Sequence[ExecutionInstance], now: float) -> float:
    """The soonest first byte of any of the instances: after its backlog comes this prompt."""
    return min(
        cost.first_byte_ms(i.load.ms_per_token, backlog_ms(i.load, now), uncached(request, i))
        for i in instances
    )
