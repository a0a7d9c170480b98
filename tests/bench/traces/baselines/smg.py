"""The rule of SMG, formerly the SGLang router: ``cache_aware``.

Sources: https://github.com/lightseekorg/smg, ``docs/concepts/routing/cache-aware.md`` at 18a6017 (rule and defaults) and
``model_gateway/src/policies/cache_aware.rs`` at 1053321 (the path for HTTP workers). Its ancestor is
https://github.com/sgl-project/sglang, ``sgl-model-gateway/src/policies/cache_aware.rs``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sage_inference.control_plane.policies.base import Loads, one_by_one
from sage_inference.replay.run import Run
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest

CACHE_THRESHOLD = 0.3
BALANCE_ABS_THRESHOLD = 64
BALANCE_REL_THRESHOLD = 1.5


class SMG:
    """The instance with the longest matching prefix, or the one with the fewest requests.

    With load = requests in flight, an instance with the fewest is taken while
    max − min > balance_abs_threshold and max > balance_rel_threshold · min. Otherwise the prompt is matched against a
    tree of all prompts sent so far. If more than cache_threshold of it matches, it goes where the deepest matching node
    was sent last; if not, to an instance with the fewest requests.

    The tree holds 2^26 nodes, more than any run here inserts, so it forgets nothing. It matches text; here, blocks of
    the trace stand for text.
    """

    name = "smg"
    order = "fifo"
    sticky = False

    def __init__(self) -> None:
        self._last: dict[
            int, ExecutionInstance
        ] = {}  # by block; the block's id stands for all text up to its end

    @classmethod
    def of(cls, run: Run) -> SMG:
        return cls()

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        return one_by_one(requests, Loads(instances), self._choose, "cache_aware")

    def _choose(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads
    ) -> ExecutionInstance:
        counts = [loads.requests(i) for i in room]
        least, most = min(counts), max(counts)
        chosen = None
        if most - least <= BALANCE_ABS_THRESHOLD or most <= BALANCE_REL_THRESHOLD * least:
            chosen = self._matched(request)
        if chosen not in room:
            chosen = room[counts.index(least)]
        for block in request.prompt_blocks:
            self._last[block] = chosen
        return chosen

    def _matched(self, request: SchedulingRequest) -> ExecutionInstance | None:
        depth, deepest = 0, None
        for block in request.prompt_blocks:
            found = self._last.get(block)
            if found is None:
                break
            depth, deepest = depth + 1, found
        matched = depth * request.block_tokens / max(1, request.prompt_tokens)
        return deepest if matched > CACHE_THRESHOLD else None
