"""What a scheduling decision costs: ``python -m tests.bench.decide``.

A decision is everything from the prompt's bytes to the instance: script, estimate, block hashes, prefix index,
policy, counters, and of it the part that the request waits for before it is sent; then the first byte and the
release, timed apart.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import sys
import time
from functools import partial
from typing import Any

from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.prompt_size import measure
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.control_plane.setup import SchedulerSettings
from sage_inference.requests.rejection import Rejection
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    RequestType,
    SchedulingDecision,
    SchedulingRequest,
    Usage,
)

CHAT = "/v1/chat/completions"
CASES = ((1, 200), (4, 200), (16, 200), (4, 4000), (16, 4000))
ROUNDS = 4000
USAGE = Usage(200, 20)


class Submitted:
    def __init__(self, request: SchedulingRequest) -> None:
        self.request = request
        self.size = 0
        self.tried: tuple[ExecutionInstance, ...] = ()
        self.place: Any = None
        self.sent_ns = 0

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        self.sent_ns = time.perf_counter_ns()

    def refused(self, refusal: Rejection) -> None: ...


def manager_of(instances: int, policy: str) -> Scheduler:
    registry = Registry()
    for number in range(instances):
        instance = ExecutionInstance(f"i{number}", "127.0.0.1", 1, models=("m",), routes=frozenset({CHAT}))
        instance.state = EngineState.READY
        registry.add(instance)
    return Scheduler(registry, policy_named(policy), SchedulerSettings())


def decisions(instances: int, tokens: int, policy: str = "hybrid") -> dict[str, float]:
    """Median microseconds. Half of the prompts share a prefix with others; eight requests are in flight."""
    manager = manager_of(instances, policy)
    rng = random.Random(1)
    shared = [rng.randbytes(4 * tokens // 2) for _ in range(8)]
    decide, waited, after = [], [], []
    running: list[Submitted] = []
    for number in range(ROUNDS):
        half = shared[rng.randrange(8)] if number % 2 else rng.randbytes(4 * tokens // 2)
        prompt = (half + rng.randbytes(4 * tokens // 2)).translate(_PRINTABLE)
        start = time.perf_counter_ns()
        request = SchedulingRequest(
            str(number),
            RequestType.LLM_CHAT,
            "m",
            CHAT,
            arrived=0.0,
            streams=True,
            prompt_bytes=len(prompt),
        )
        submission = Submitted(request)
        manager.submit(submission, partial(measure, request, prompt, manager.estimates))
        decide.append(time.perf_counter_ns() - start)
        waited.append(submission.sent_ns - start)
        running.append(submission)
        if len(running) > 8:
            ended = running.pop(0)
            start = time.perf_counter_ns()
            manager.first_byte(ended)
            manager.release(ended, USAGE)
            after.append(time.perf_counter_ns() - start)
    return {
        "decide_us": statistics.median(decide) / 1000,
        "sent_after_us": statistics.median(waited) / 1000,
        "decide_p99_us": statistics.quantiles(decide, n=100)[98] / 1000,
        "first_byte_and_release_us": statistics.median(after) / 1000,
    }


_PRINTABLE = bytes(32 + byte % 95 for byte in range(256))


def main() -> None:
    policy = sys.argv[1] if len(sys.argv) > 1 else "hybrid"
    print(f"policy {policy}, Python {platform.python_version()}, {platform.machine()}", file=sys.stderr)
    for instances, tokens in CASES:
        figures = {name: round(value, 1) for name, value in decisions(instances, tokens, policy).items()}
        print(json.dumps({"instances": instances, "prompt_tokens": tokens, **figures}))


if __name__ == "__main__":
    main()
