"""Chooses an instance for one request: who may take it, whom the policy wants, and whether that one is open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from sage_inference.control_plane.accounting.prompt_share import can_spare
from sage_inference.control_plane.instances.gpu_sharing import SharedGPU, is_mixed
from sage_inference.control_plane.instances.load import backlog_ms, is_open
from sage_inference.control_plane.instances.prefill_decode import whole_of
from sage_inference.control_plane.policies.base import PlacementPolicy
from sage_inference.control_plane.prefix_index import PrefixIndex
from sage_inference.control_plane.slo import ttft_s
from sage_inference.control_plane.submission import Submission
from sage_inference.types import EngineState, ExecutionInstance, SchedulingDecision, SchedulingRequest

_READY = EngineState.READY
# Why an instance was chosen.
ONLY, FINISHES = "only instance", "finishes what it began"
# A prompt estimated at so many times a context's length is not sent there. Below, the engine may be asked: its refusal
# comes before any work, and the request then goes to a larger instance.
SURELY_TOO_LONG = 1.5

# Windows of pending tokens that an instance may have, where a prompt that it has cached would go elsewhere otherwise.
BEYOND = 2
# Decision (None: it is held, the instance is closed), instance, and the tokens of the prompt it has not cached.
Choice = tuple[SchedulingDecision | None, ExecutionInstance, int]


class Selector:
    """``shared`` and ``mixed`` tell of GPUs that LLM and embedding work share; most fleets have none."""

    def __init__(self, policy: PlacementPolicy) -> None:
        self.policy = policy
        self.by_model: dict[str, PlacementPolicy] = {}
        self.prefixes = PrefixIndex()
        self.shared: dict[ExecutionInstance, SharedGPU] = {}
        self.mixed = False
        self.uneven: frozenset[str] = frozenset()  # models whose instances have contexts of different lengths
        self.prefers_special = True  # over mixed ones

    def policy_for(self, request: SchedulingRequest) -> PlacementPolicy:
        if not self.by_model:
            return self.policy
        return self.by_model.get(request.model, self.policy)

    def heeds_streams(self, request: SchedulingRequest) -> bool:
        """Whether it may have to wait for LLM work on the GPU it goes to."""
        return bool(self.shared) and not request.request_type.is_llm

    def is_free(self, request: SchedulingRequest, instance: ExecutionInstance) -> bool:
        """Whether it need not wait for work of the other kind."""
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
        """None: it has to wait. ``patient``: it may be held for a warm instance that is closed.

        One that is ``overdue`` gets only what an instance can spare.
        """
        request = submission.request
        if len(group) == 1 and self.is_free(request, group[0]):  # healthy or not, there is no other
            return self._only_overdue(request, group[0], now) if overdue else self._only(request, group[0])
        candidates: Sequence[ExecutionInstance] = group
        for instance in group:
            if instance.state is not _READY:
                candidates = [i for i in group if i.state is _READY]
                break
        if not candidates or submission.tried:
            # Where it failed already is better than nowhere: those it was to go to may have left meanwhile.
            candidates = healthy(group, submission.tried) or healthy(group, ())
        if self.uneven and request.model in self.uneven:
            candidates = _fitting(request, candidates)
        if self.shared or self.mixed:
            candidates = self._spare_streams(request, candidates, now)
        if not candidates:
            return None
        cached = request.cached_tokens = self.prefixes.match(request)
        if overdue:
            tokens = request.prompt_tokens
            candidates = [
                i for i in candidates if can_spare(i, i.load.ms_per_token * (tokens - cached.get(i, 0)), now)
            ]
            if not candidates:
                return None
        if len(candidates) == 1:
            return self._only(request, candidates[0])
        policy = self.policy_for(request) if self.by_model else self.policy
        choice = _ask(policy, request, candidates)
        if choice is None or is_open(choice[1], choice[2]):
            return choice
        wanted, need = choice[1], choice[2]
        tokens = request.prompt_tokens
        is_warm = policy.sticky and not overdue and bool(cached) and need < 0.7 * tokens
        if is_warm and patient:
            return None, wanted, need
        open_ = [i for i in candidates if is_open(i, tokens - cached.get(i, 0))]
        elsewhere = _ask(policy, request, open_) if open_ else None
        if is_warm and elsewhere is not None and _is_sooner(request, wanted, elsewhere[1], now):
            return choice
        return elsewhere

    def soonest_ms(self, request: SchedulingRequest, group: Sequence[ExecutionInstance], now: float) -> float:
        """The soonest first byte that the group could give it."""
        request.cached_tokens = self.prefixes.match(request)
        return first_byte_ms(request, healthy(group, ()), now)

    def resumes_at(self, now: float) -> float:
        """When the next of the paused shared GPUs takes embeddings again; infinite where none is paused."""
        return min((each.resumes_at for each in self.shared.values() if each.resumes_at > now), default=inf)

    def uncached(self, request: SchedulingRequest, only: ExecutionInstance) -> int:
        """Tokens of its prompt that the only instance has to work off."""
        cached = request.cached_tokens = self.prefixes.match(request)
        return request.prompt_tokens - cached.get(only, 0) if cached else request.prompt_tokens

    def _only_overdue(self, request: SchedulingRequest, only: ExecutionInstance, now: float) -> Choice | None:
        prompt_ms = only.load.ms_per_token * self.uncached(request, only)
        return self._only(request, only) if can_spare(only, prompt_ms, now) else None

    def prompt_ms(self, request: SchedulingRequest, group: Sequence[ExecutionInstance]) -> float:
        """The milliseconds that its prompt takes on the fastest instance, given the prefixes that are cached now."""
        request.cached_tokens = self.prefixes.match(request)
        return prefill_ms(request, group)

    def _only(self, request: SchedulingRequest, only: ExecutionInstance) -> Choice | None:
        need = self.uncached(request, only)
        if not is_open(only, need):
            return None
        return SchedulingDecision(request.request_id, only.instance_id, ONLY), only, need

    def _spare_streams(
        self, request: SchedulingRequest, candidates: Sequence[ExecutionInstance], now: float
    ) -> Sequence[ExecutionInstance]:
        """Specialised instances first while they are in time, if wanted; embeddings only as far as streams allow."""
        if self.mixed and self.prefers_special:
            special = [i for i in candidates if not is_mixed(i)]
            if 0 < len(special) < len(candidates) and first_byte_ms(request, special, now) <= (
                ttft_s(request) * 1000
            ):
                candidates = special
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
    """Those whose context prompt and answer may fit into; all where they fit into none, because estimates may be wrong.

    With the length of its answer a request also names what it needs: then those come first where that fits by the
    estimate of its prompt, because an engine refuses a request that asks for one token too many. Without it the engine
    gives what its context has left.
    """
    whole = whole_of(request)
    output, prompt = whole.output_tokens, whole.prompt_tokens
    fewest = prompt / SURELY_TOO_LONG + output
    if output and (fitting := _with_context(candidates, request.model, prompt + output)):
        return fitting
    return _with_context(candidates, request.model, fewest) or candidates


def _with_context(
    candidates: Sequence[ExecutionInstance], model: str, tokens: float
) -> Sequence[ExecutionInstance]:
    """Those that may have a context of so many tokens: some engines do not report theirs."""
    return [i for i in candidates if i.context_tokens.get(model, tokens) >= tokens]


def _ask(
    policy: PlacementPolicy, request: SchedulingRequest, candidates: Sequence[ExecutionInstance]
) -> Choice | None:
    for decision in policy.schedule((request,), candidates):
        if decision.request_id != request.request_id:
            continue
        target = decision.target
        if target is None or target not in candidates:
            named = decision.target_instance_id
            target = next((i for i in candidates if i.instance_id == named), None)
        if target is not None:
            return decision, target, request.prompt_tokens - request.cached_tokens.get(target, 0)
    return None


def _is_sooner(
    request: SchedulingRequest, warm: ExecutionInstance, other: ExecutionInstance, now: float
) -> bool:
    """Whether a closed instance that has the prompt cached answers sooner than an open one that has not.

    Otherwise two engines would compute the same prompt, at the cost of all other requests. A request that waits in an
    engine can no longer be ordered, so this ends at ``BEYOND`` windows. An instance that should be done with its prompts
    and is not may be stuck.
    """
    load, limit = warm.load, warm.max_concurrent_requests
    need = request.prompt_tokens - request.cached_tokens.get(warm, 0)
    return (
        not (limit and warm.active_requests >= limit)
        and load.pending_tokens + need <= BEYOND * load.window_tokens
        and backlog_ms(load, now) > 0.0
        and first_byte_ms(request, (warm,), now) <= first_byte_ms(request, (other,), now)
    )


def healthy(
    group: Sequence[ExecutionInstance], tried: Sequence[ExecutionInstance]
) -> list[ExecutionInstance]:
    """The healthy ones not tried yet; where none is healthy, any not tried yet.

    A try that may fail serves a caller better than a certain 503, and finds out at once that an engine
    is back: the last instance of a group never falls into a black hole.
    """
    ready = [i for i in group if i.state is _READY] or list(group)
    return [i for i in ready if i not in tried] if tried else ready


def prefill_ms(request: SchedulingRequest, group: Sequence[ExecutionInstance]) -> float:
    """What the prompt alone takes where that is least."""
    cached, tokens = request.cached_tokens, request.prompt_tokens
    return min([i.load.ms_per_token * (tokens - cached.get(i, 0)) for i in group], default=0.0)


def first_byte_ms(request: SchedulingRequest, instances: Sequence[ExecutionInstance], now: float) -> float:
    """The soonest that any of them could answer: its backlog, then this prompt."""
    cached, tokens = request.cached_tokens, request.prompt_tokens
    return min(backlog_ms(i.load, now) + i.load.ms_per_token * (tokens - cached.get(i, 0)) for i in instances)
