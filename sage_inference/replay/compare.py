"""The same workload under one policy after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.fleet import llm_fleet
from sage_inference.replay.jobs import Outcome, ReplayWorkload
from sage_inference.replay.llm_engine import EngineLimits
from sage_inference.replay.report import ReplaySummary, summarize
from sage_inference.replay.run import Run
from sage_inference.replay.slo import ReplaySlo

OFTEN = 500  # requests between two progress reports


def compare(
    workload: ReplayWorkload,
    policies: Sequence[str],
    instances: int,
    slo: ReplaySlo,
    on_progress: Callable[[str, int, int], None] = lambda policy, done, of: None,
) -> dict[str, ReplaySummary]:
    """A summary for each policy. All policies aim at ``slo``.

    ``on_progress`` gets the policy, the number of requests that have ended, and the number of all requests.
    """
    return {
        policy: summarize(_play(workload, policy, instances, slo, on_progress), slo)
        for policy in dict.fromkeys(policies)
    }


def _play(
    workload: ReplayWorkload,
    policy: str,
    instances: int,
    slo: ReplaySlo,
    on_progress: Callable[[str, int, int], None],
) -> list[Outcome]:
    models = [model for model in dict.fromkeys(job.model for job in workload.jobs) if model]
    fleet = llm_fleet(instances, limits=EngineLimits(block_tokens=workload.block_tokens), models=models)
    ended = 0

    def count(outcome: Outcome) -> None:
        nonlocal ended
        ended += 1
        if ended % OFTEN == 0:
            on_progress(policy, ended, len(workload.jobs))

    on_progress(policy, 0, len(workload.jobs))
    return Run(policy_named(policy, fleet.clock), fleet, count, slo).play(workload.jobs)
