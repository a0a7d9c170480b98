"""The same workload under one policy after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.fidelity import Fidelity, fidelity, limits_of
from sage_inference.replay.fleet import ModelledFleet, llm_fleet, recorded_fleet
from sage_inference.replay.jobs import Outcome
from sage_inference.replay.learning import NOTHING, Learned
from sage_inference.replay.llm_engine import EngineLimits
from sage_inference.replay.recording import Recording, ReplayWorkload
from sage_inference.replay.repeats import repeats, varied
from sage_inference.replay.report import ReplaySummary, summarize, usual
from sage_inference.replay.run import Run
from sage_inference.replay.slo import ReplaySlo
from sage_inference.replay.tuning import tuned

OFTEN = 500  # requests between two progress reports
INSTANCES = 4  # of a trace, which has none


@dataclass(frozen=True, slots=True)
class Engines:
    """Modelled engines. ``error`` is that of their replay of a record.

    They are ``instances`` engines that are alike and serve all models, or those of ``recording``.
    """

    instances: int = INSTANCES
    limits: EngineLimits = EngineLimits()
    learned: Learned = NOTHING
    late_binding: bool = True
    error: Fidelity | None = None
    learns: bool = True
    recording: Recording | None = None


def engines_for(
    workload: ReplayWorkload,
    policies: Sequence[str],
    slo: ReplaySlo,
    instances: int | None = None,
    learns: bool = True,
    on_trial: Callable[[int], None] = lambda number: None,
) -> Engines:
    """Engines like the recorded ones; usual ones for a trace.

    ``instances`` replaces their number. Unless ``learns``, they have the usual step times. ``on_trial`` gets the number
    of each trial that they are fitted with.
    """
    recording = workload.recording
    if recording is None:
        return Engines(instances or INSTANCES, EngineLimits(block_tokens=workload.block_tokens))
    limits, at_first = limits_of(recording, workload.block_tokens), policies[0]
    learned = tuned(workload, at_first, slo, limits, on_trial) if learns else NOTHING
    error = fidelity(recording, workload.jobs, at_first, slo, learned, limits)
    count, own = max(1, len(recording.engines)), recording if instances is None else None
    return Engines(instances or count, limits, learned, recording.late_binding, error, learns, own)


def compare(
    workload: ReplayWorkload,
    policies: Sequence[str],
    engines: Engines,
    slo: ReplaySlo,
    on_progress: Callable[[str, int, int], None] = lambda policy, done, of: None,
) -> dict[str, ReplaySummary]:
    """A summary for each policy. All policies aim at ``slo``. A short record is replayed several times.

    ``on_progress`` gets the policy, the number of requests that have ended, and the number of all requests.
    """
    return {
        policy: usual(_summaries(workload, policy, engines, slo, on_progress))
        for policy in dict.fromkeys(policies)
    }


def _summaries(
    workload: ReplayWorkload,
    policy: str,
    engines: Engines,
    slo: ReplaySlo,
    on_progress: Callable[[str, int, int], None],
) -> list[ReplaySummary]:
    replays = repeats(len(workload.jobs)) if workload.recording is not None else 1
    ended, requests = 0, replays * len(workload.jobs)

    def count(outcome: Outcome) -> None:
        nonlocal ended
        ended += 1
        if ended % OFTEN == 0:
            on_progress(policy, ended, requests)

    on_progress(policy, 0, requests)
    found = []
    for number in range(replays):
        fleet = _fleet(workload, engines)
        run = Run(policy_named(policy, fleet.clock), fleet, count, slo)
        found.append(summarize(run.play(varied(workload.jobs, number)), slo))
    return found


def _fleet(workload: ReplayWorkload, engines: Engines) -> ModelledFleet:
    if engines.recording is not None:
        return recorded_fleet(engines.recording, engines.limits, engines.learned)
    return llm_fleet(
        engines.instances,
        limits=engines.limits,
        times=engines.learned.times,
        late_binding=engines.late_binding,
        models=[model for model in dict.fromkeys(job.model for job in workload.jobs) if model],
    )
