"""LLM and embedding work on one GPU, and the share of its time that embeddings may take while streams run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from sage_inference.control_plane.cost import LONGEST_MS
from sage_inference.control_plane.instances.gpu_cost import TIME_SLICED, GPUCost
from sage_inference.control_plane.instances.load import Counted, Placement
from sage_inference.control_plane.instances.stream_budgets import StreamBudgets
from sage_inference.control_plane.slo import TPOT_MS
from sage_inference.types import ExecutionInstance, ExecutionInstanceType

MOST_BESIDE = 4  # calls in flight beside LLM work
_MOST_S = 0.4  # the longest pause for streams that need all of the GPU
_LOOK_S = 0.02  # between two looks at the streams while embeddings pause for them
_WATCHED_S = 60.0  # the gaps of streams are noted for so long after the last embedding call


class SharedGPU:
    """The instances on one GPU, which are scheduled together.

    While LLM work is in flight, the begins of embedding calls are spaced so that they take no more than 1 − ``ratio`` of
    the GPU's time: a call of n tokens takes n · c, with c from ``GPUCost``. While a stream is about to miss its SLO, the
    spaces are up to twice as long. While c is looked at, calls go in groups, with a pause of half their time after each.
    Where no streams show c, calls go one at a time. Such a call takes the wall time d, and would take w alone. After it
    a pause of max(0, w/(1 − ratio) − d) leaves ``ratio`` of the time to the LLM. A ratio of slots would have no effect
    on a time-sliced GPU.

    With ``ratio`` None the streams decide, see ``StreamBudgets``: the calls in flight fall from ``MOST_BESIDE`` to one,
    the nearer a stream comes to missing its SLO. Then none begins until it has recovered, or for 400 ms. Embeddings may
    use all time that the LLM does not use.
    """

    def __init__(self, ratio: float | None) -> None:
        self.ratio = ratio
        self.tpot_s = TPOT_MS / 1000
        self.llm = 0  # requests in flight
        self.embedding = 0
        self.resumes_at = 0.0
        self.cost = GPUCost()
        self.streams = StreamBudgets()
        # Whether gaps between chunks are of use. Most engines that could embed never do, and each chunk would pay.
        self.watches = False
        self.watches_since = math.inf
        self._looked_at = self._embedded_at = -math.inf
        self._urgency = 0.0
        self._first: Placement | None = None  # the call that found no other before it
        self._alone_since = 0.0  # no LLM work in flight since; infinite while there is
        # LLM work in flight without a break since; infinite while there is none.
        self._company_since = math.inf
        self._solo_s: float | None = None  # a token, alone
        self._least_s: float | None = None  # a token, the least seen in company

    def may_embed(self, now: float) -> bool:
        if not self.llm:
            return True
        if now < self.resumes_at:
            return False
        if self.ratio is None:
            return self._streams_allow(now)
        if self._looks(now):
            return not self.embedding or self.cost.takes_more(now)
        return self.embedding < (MOST_BESIDE if not self.ratio or self._urgency_at(now) < 1.0 else 1)

    def _streams_allow(self, now: float) -> bool:
        """Whether one more call may begin beside streams that are to keep their SLO."""
        urgency = self._urgency_at(now)
        if urgency < 1.0:
            # Calls that an engine has cannot be held back any more.
            return self.embedding < math.ceil(MOST_BESIDE * (1.0 - urgency))
        latest = self._embedded_at + _MOST_S
        if not self.embedding and now >= latest:
            return True
        self.resumes_at = now + _LOOK_S if self.embedding else min(latest, now + _LOOK_S)
        return False

    def _urgency_at(self, now: float) -> float:
        if now >= self._looked_at + _LOOK_S / 2:
            self._looked_at, self._urgency = now, self.streams.urgency(self.tpot_s, now)
        return self._urgency

    def began(self, placement: Placement, llm: bool) -> None:
        now = placement.pushed_at
        if llm:
            self.llm += 1
            self._alone_since = math.inf
            if now < self._company_since:
                self._company_since = now
            if placement.request.streams:
                self.streams.began(placement)
            if self.watches and not self.embedding and now > self._embedded_at + _WATCHED_S:
                self.watches = False
            return
        if not self.watches and self.ratio != 0.0:
            self.watches, self.watches_since = True, now
        self.embedding += 1
        if self.embedding == 1:
            self._first = placement
        self.cost.began(now, first=self.embedding == 1)
        if self.llm and self.ratio and not self._looks(now):
            # A begin that was late by less than its space lets the next one be earlier.
            space = self._space(placement.tokens) * min(2.0, max(1.0, 2.0 * self._urgency_at(now) - 1.0))
            self.resumes_at = (
                max(now, self.resumes_at + space) if self.resumes_at > now - space else now + space
            )

    def ended(self, placement: Placement, llm: bool, now: float) -> None:
        if llm:
            self.llm -= 1
            if placement.request.streams:
                self.streams.ended(placement)
            if not self.llm:
                self._alone_since = now
                self._company_since = math.inf
                self.cost.interrupted()  # its calls must have streams beside them all the time
            return
        self.embedding -= 1
        self._embedded_at = now
        took = now - placement.pushed_at
        if not 0.0 <= took * 1000 < LONGEST_MS:
            return
        timed = placement.pushed_at > placement.instance.load.stalled_at
        if placement is self._first and timed:  # the time of other calls is partly that of calls before them
            self._learn(placement, took / placement.tokens)
        if self.llm and self._looks(now):
            last = not self.embedding
            if self.cost.looking:
                if timed:
                    self.cost.ended(placement.tokens, now, last=last)
                else:
                    self.cost.interrupted()
            elif last:
                self.cost.look(now)  # from the end of the last call on
            if last:
                # Those of a group begin together, so the last one took the time of all.
                self.resumes_at = now + self._pause(placement.tokens, took)

    def follow(self, placement: Placement, stream: Counted, now: float) -> None:
        """The first chunk of a stream came. While ``watches``, there is to be a listener to its gaps."""
        if self.ratio != 0.0:
            self.streams.follow(placement, stream, now)

    def listener(self, placement: Placement, now: float = 0.0) -> Callable[[float, float], None] | None:
        """A function for the seconds between two chunks of a stream here, and the time now; None if not needed."""
        if self.ratio is None:
            return self.streams.listener(placement, None, now)
        return self.streams.listener(placement, self, now) if self.ratio else None

    def saw_gap(self, gap_s: float, now: float) -> None:
        """While ``cost.looking``: a stream had a chunk, ``gap_s`` after the one before."""
        self.cost.streamed(gap_s, now, beside=self.embedding > 0)

    def _looks(self, now: float) -> bool:
        """Whether calls go one at a time, so that the cost of one shows."""
        return bool(self.ratio) and self.cost.is_due(now)

    def _space(self, tokens: int) -> float:
        """The time from the begin of a call beside LLM work to the begin of the next one."""
        return tokens * (self.cost.seconds_a_token or 0.0) / max(0.01, 1 - (self.ratio or 0.0))

    def _pause(self, tokens: int, took: float) -> float:
        """The pause after a call that was the last in flight, so that the cost shows."""
        seen = took / 2  # without a pause no gap is without a call
        if self.cost.sees_streams:
            return seen
        ratio = self.ratio or 0.0
        alone = self._solo_s if self._solo_s is not None else TIME_SLICED * (self._least_s or 0.0)
        return max(seen, alone * tokens / max(0.01, 1 - ratio) - took)

    def _learn(self, placement: Placement, seconds: float) -> None:
        """Learn the time of a token from a call that was alone, or in company, from begin to end."""
        if self._alone_since <= placement.pushed_at:
            self._solo_s = seconds if self._solo_s is None else 0.9 * self._solo_s + 0.1 * seconds
        elif self._company_since <= placement.pushed_at:
            self._least_s = seconds if self._least_s is None else min(seconds, self._least_s)


def shared_gpus(
    instances: Iterable[ExecutionInstance], ratio: float | None, known: dict[str, SharedGPU]
) -> dict[ExecutionInstance, SharedGPU]:
    """The GPU of each instance that is on one which LLM and embedding work share; ``known`` has what was learned.

    A GPU is forgotten when no instance is on it any more and all its work has ended: requests that still run there
    count on this very object.
    """
    by_gpu: dict[str, list[ExecutionInstance]] = {}
    for instance in instances:
        by_gpu.setdefault(instance.gpu or f"of {instance.instance_id}", []).append(instance)
    for name in [name for name, gpu in known.items() if name not in by_gpu and not gpu.llm + gpu.embedding]:
        del known[name]
    found = {}
    for name, members in by_gpu.items():
        if any(i.instance_type.serves_embeddings for i in members) and any(
            i.instance_type.serves_llm for i in members
        ):
            shared = known.setdefault(name, SharedGPU(ratio))
            shared.ratio = ratio
            found.update(dict.fromkeys(members, shared))
    return found


def keep_tpot(shared: Mapping[ExecutionInstance, SharedGPU], tpot_ms: Callable[[str], float]) -> None:
    """Streams on a shared GPU are to keep the TPOT of their model, of several models the shortest."""
    wanted: dict[SharedGPU, float] = {}
    known: dict[tuple[str, ...], float] = {}  # many instances have one list of models, which may be long
    for instance, gpu in shared.items():
        models = instance.models
        if instance.instance_type.serves_llm and models:
            if models not in known:
                known[models] = min(map(tpot_ms, models))
            wanted[gpu] = min(known[models], wanted.get(gpu, math.inf))
    for gpu, shortest in wanted.items():
        gpu.tpot_s = shortest / 1000


def is_mixed(instance: ExecutionInstance) -> bool:
    return instance.instance_type is ExecutionInstanceType.LLM_EMBEDDING
