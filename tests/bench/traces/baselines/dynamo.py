"""The rule of NVIDIA Dynamo's KV router.

Sources: https://github.com/ai-dynamo/dynamo, ``docs/components/router/router-concepts.md`` at 03037af (the cost),
``docs/components/router/router_guide.md`` at 0355d55 (the worked example and the flags' defaults),
``lib/kv-router/src/scheduling/selector/default.rs`` at 07a6c9c (equal costs are drawn at random).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.policies.base import Loads, one_by_one
from sage_inference.replay.run import Run
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest

OVERLAP_SCORE_WEIGHT = 1.0
BLOCK_TOKENS = 16  # vLLM's; only rounding depends on it, because all terms are in blocks
# router_temperature is 0 by default: the least cost wins, and nothing is drawn but among equal costs.


def cost(prefill_blocks: float, decode_blocks: float) -> float:
    """The cost of one more request on a worker, in blocks."""
    return OVERLAP_SCORE_WEIGHT * prefill_blocks + decode_blocks


class Dynamo:
    """The least of overlap_score_weight · prefill_blocks + decode_blocks.

    prefill_blocks: uncached prompt tokens sent to the worker and not yet answered by a first token, with those of the
    request, in blocks. decode_blocks: the different blocks of the prompts under way there, with those of the request;
    generated tokens are not counted (``--router-track-output-blocks`` is off by default).
    """

    name = "dynamo"
    order = "fifo"
    sticky = False

    def __init__(self) -> None:
        self._active: dict[ExecutionInstance, _Active] = {}
        self._random = random.Random(0)

    @classmethod
    def of(cls, run: Run) -> Dynamo:
        policy = cls()
        run.scheduler.watch(policy.began, policy.ended)
        return policy

    def began(self, placement: Placement) -> None:
        self._active.setdefault(placement.instance, _Active()).add(placement.request, 1)

    def ended(self, placement: Placement) -> None:
        self._active[placement.instance].add(placement.request, -1)

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        return one_by_one(requests, Loads(instances), self._choose, "least cost")

    def _choose(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads
    ) -> ExecutionInstance:
        costs = [self._cost(request, i, loads) for i in room]
        least = min(costs)
        return self._random.choice([i for i, each in zip(room, costs, strict=True) if each == least])

    def _cost(self, request: SchedulingRequest, instance: ExecutionInstance, loads: Loads) -> float:
        uncached = request.prompt_tokens - request.cached_tokens.get(instance, 0)
        active = self._active.get(instance) or _Active()
        return cost(
            (loads.tokens(instance) + uncached) / BLOCK_TOKENS,
            (active.tokens + active.more(request)) / BLOCK_TOKENS,
        )


class _Active:
    """Prompt tokens under way at one worker; a prefix that several requests share counts once."""

    def __init__(self) -> None:
        self.tokens = 0.0
        self._users: Counter[int] = Counter()

    def more(self, request: SchedulingRequest) -> float:
        """Tokens that the request would add."""
        known = sum(block in self._users for block in request.prompt_blocks)
        return request.prompt_tokens - known * request.block_tokens

    def add(self, request: SchedulingRequest, by: int) -> None:
        users = self._users
        blocks = request.prompt_blocks
        changed = 0
        for block in blocks:
            before = users[block]
            users[block] = after = before + by
            if not after:
                del users[block]
            changed += (after > 0) - (before > 0)
        own = request.prompt_tokens - len(blocks) * request.block_tokens
        self.tokens += changed * request.block_tokens + by * own
