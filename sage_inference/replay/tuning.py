"""Learns the times of the process in front of the GPU, which least squares do not show.

They show in the figures of a replay of the recorded policy. So a few of them are tried, and the best are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sage_inference.replay.calibration import missing_ms
from sage_inference.replay.fidelity import Fidelity, fidelity
from sage_inference.replay.learning import Learned, learn
from sage_inference.replay.llm_engine import EngineLimits
from sage_inference.replay.recording import ReplayWorkload
from sage_inference.replay.slo import ReplaySlo

MOST = 2000  # requests of a trial
GOOD = 0.1  # distance of a replay that needs no better times
PARTS = (0.85, 0.7, 0.55, 0.4, 0.2)  # of what is missing until the first byte in the median
BUSY = 0.5  # of its time for tokens, at the least, makes a front end worth modelling
LEAST_MS = 5.0  # of a request that also waits for the front end
READ_MS = (0.5, 1.0, 1.5, 2.0)
WRITE_MS = (0.035, 0.05, 0.06, 0.07, 0.085)
# vLLM's on two machines. Waves of callers make the figures jump with the smallest change of the times, so a trial may be
# near by chance. Each step away from here must bring a replay of so many requests nearer by 1.
USUAL_ROW, USUAL_COLUMN = 2, 3
DOUBT = 225.0


@dataclass(frozen=True, slots=True)
class _Trial:
    learned: Learned
    found: Fidelity


def tuned(
    workload: ReplayWorkload,
    policy: str,
    slo: ReplaySlo,
    limits: EngineLimits,
    on_trial: Callable[[int], None] = lambda number: None,
) -> Learned:
    """The step times of the recorded engines, which have these limits.

    ``policy`` is replayed if the record does not have the one that placed its requests.
    """
    recording = workload.recording
    assert recording is not None
    learned = learn(recording)
    if not learned.decode:
        return learned
    jobs, trials = workload.jobs[:MOST], 0

    def trial(request_ms: float, read_ms: float = 0.0, write_ms: float = 0.0) -> _Trial:
        nonlocal trials
        trials += 1
        on_trial(trials)
        times = replace(learned.times, request_ms=request_ms, read_ms=read_ms, write_ms=write_ms)
        tried = replace(learned, times=times, request=True)
        return _Trial(tried, fidelity(recording, jobs, policy, slo, tried, limits))

    missing = missing_ms(recording.attempts, limits, learned)
    best = trial(missing)
    if best.found.distance > GOOD:
        best = min([best, *(trial(missing * part) for part in PARTS)], key=_distance)
    # With few streams a front end has time enough for all requests, and other errors would be taken for its work.
    writing = recording.most_sequences * WRITE_MS[-1] / learned.times.base_ms
    if best.found.distance > GOOD and writing >= BUSY:
        grid = [
            (trial(LEAST_MS, read_ms, write_ms), abs(row - USUAL_ROW) + abs(column - USUAL_COLUMN))
            for row, read_ms in enumerate(READ_MS)
            for column, write_ms in enumerate(WRITE_MS)
        ]
        doubt = DOUBT / len(jobs)
        nearest = min(grid, key=lambda each: each[0].found.distance + doubt * each[1])[0]
        best = min(best, nearest, key=_distance)
    return best.learned


def _distance(trial: _Trial) -> float:
    return trial.found.distance
