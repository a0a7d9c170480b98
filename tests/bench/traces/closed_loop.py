"""The closed-loop case: callers that each send their next request when their answer ended, before one engine."""

from __future__ import annotations

import random

from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.fleet import llm_fleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.run import Run
from tests.bench.traces.contest import Result, share

CALLERS = 128
PROMPT, OUTPUT = 512, 128
UNEVEN = 0.3  # so much more or less of each, so that the callers do not go in step
ROUNDS = 80  # requests of a caller


def closed_loop(part: float) -> Result:
    """128 callers of 512 and 128 tokens before one engine: all alike, and then of uneven lengths."""
    result = Result(f"closed loop, {CALLERS} callers, one engine")
    for what, uneven in (("alike", 0.0), ("uneven", UNEVEN)):
        base = play_closed("least_loaded", uneven, part, at_once=True)
        ours = play_closed("hybrid", uneven, part)
        result.add(f"{what}: least_loaded, at once", base, _note(base))
        result.add(f"{what}: hybrid", ours, _note(ours))
        result.at_most(f"{what}: hybrid's longest wait / at once", share(_longest(ours), _longest(base)), 3)
        result.at_least(f"{what}: hybrid's output tokens/s / at once", share(_rate(ours), _rate(base)), 0.98)
    return result


def play_closed(policy: str, uneven: float, part: float, *, at_once: bool = False) -> list[Outcome]:
    """Every caller has one request under way, until ``part`` of the rounds were sent."""
    rng = random.Random(4)
    fleet = llm_fleet(1, late_binding=not at_once)

    def job() -> Job:
        prompt, output = (round(n * rng.uniform(1 - uneven, 1 + uneven)) for n in (PROMPT, OUTPUT))
        return Job(fleet.events.now, prompt, output)

    def again(outcome: Outcome) -> None:
        if len(run.outcomes) < CALLERS * ROUNDS * part:
            run.submit(job())

    run = Run(policy_named(policy, fleet.clock), fleet, again)
    return run.play([job() for _ in range(CALLERS)])


def _longest(outcomes: list[Outcome]) -> float:
    """Of the times to a first token, milliseconds."""
    return max(outcome.ttft_ms or 0.0 for outcome in outcomes)


def _rate(outcomes: list[Outcome]) -> float:
    """Output tokens a second."""
    return 1000 * sum(o.job.output for o in outcomes) / max(o.end_ms or 0.0 for o in outcomes)


def _note(outcomes: list[Outcome]) -> str:
    return f"longest {_longest(outcomes):,.0f} ms, {_rate(outcomes):,.0f} tokens/s"
