"""Records of modelled engines whose step times are known, in the lines that the gateway writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.fleet import llm_fleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.recording import ReplayWorkload
from sage_inference.replay.run import Run
from sage_inference.replay.workload import read_workload
from sage_inference.simulator.timing import StepTimes

# About an H200's with vLLM, and a request takes a while outside of steps.
FAST = StepTimes(4.7, 0.01, 1.4e-5, 0.022, 0.8e-6, hidden_ms=0.0, request_ms=18.0, ahead=True)


def played(
    jobs: Sequence[Job], times: StepTimes = FAST, instances: int = 1, policy: str = "hybrid"
) -> list[Outcome]:
    """The outcomes of jobs on engines with these step times."""
    fleet = llm_fleet(instances, times=times)
    return Run(policy_named(policy, fleet.clock), fleet).play(jobs)


def looped(
    callers: int, rounds: int, prompt: int = 500, output: int = 60, think_ms: float = 1.0
) -> list[Job]:
    """Callers that ask again after each answer. Each begins a little after the one before."""
    jobs = [Job(caller * 3.0, prompt, output + caller % 7) for caller in range(callers)]
    for _ in range(rounds - 1):
        jobs += [
            replace(jobs[place], follows=place, think_ms=think_ms)
            for place in range(len(jobs) - callers, len(jobs))
        ]
    return jobs


def spread(count: int, gap_ms: float = 120.0, *, prompts: Sequence[int] = (100, 900, 2500, 400)) -> list[Job]:
    """Requests that arrive on their own, of different sizes."""
    return [
        Job(place * gap_ms + 37.0 * (place * 7 % 5), prompts[place % len(prompts)], 40 + 23 * (place % 6))
        for place in range(count)
    ]


def entry(number: int, outcome: Outcome, **different: Any) -> dict[str, Any]:
    """The line of a request, at a wall clock that is not 0."""
    job, placed, end = outcome.job, outcome.placed_ms, outcome.end_ms
    assert placed is not None
    assert end is not None
    assert outcome.first_ms is not None
    first = outcome.first_ms if job.streams else end
    return {
        "request_id": f"r{number}",
        "request_type": "llm_chat",
        "model": "m",
        "priority": 2,
        "tenant": "",
        "deadline_ms": None,
        "streams": job.streams,
        "arrived_ms": 1e12 + job.at_ms,
        "waited_ms": placed - job.at_ms,
        "instance": outcome.instance,
        "policy": "hybrid",
        "first_byte_ms": first - placed,
        "duration_ms": end - placed,
        "outcome": "done",
        "status": 200,
        "prompt_tokens": job.prompt,
        "completion_tokens": job.output,
        "cached_tokens": outcome.cached,
        "blocks": list(job.blocks),
        "block_tokens": 64.0,
    } | different


def entries(outcomes: Iterable[Outcome], **different: Any) -> list[dict[str, Any]]:
    return [entry(number, outcome, **different) for number, outcome in enumerate(outcomes)]


def recorded(path: Path, lines: Sequence[dict[str, Any]], closed: bool | None = None) -> ReplayWorkload:
    file = path / "record.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_workload(file, closed=closed)
