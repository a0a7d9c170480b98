"""Learns what least squares do not show: the times of the process in front of the GPU, and when steps are planned.

They show in the answers of modelled engines that get the recorded requests. So a few of them are tried, and the best are
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from math import log

from sage_inference.replay.calibration import AnswerTimes, Trial, resent, settled
from sage_inference.replay.fidelity import fidelity
from sage_inference.replay.learning import Learned, learn
from sage_inference.replay.llm_engine import EngineLimits
from sage_inference.replay.recording import ReplayWorkload
from sage_inference.replay.slo import ReplaySlo
from sage_inference.simulator.timing import StepTimes

MOST = 2000  # requests of a trial
BUSY = 0.5  # of its time for tokens, at the least, makes a front end worth modelling
READ_MS, WRITE_MS = 2.3, 0.066  # of vLLM's usual front end
TURNS = (1, 8)  # one request after the other, or about side by side
FACTORS = (1.5, 1.2, 1.1)  # by which these are changed, one round each
# Those of callers in a loop.
LOOP_READ_MS, LOOP_WRITE_MS, LOOP_REQUEST_MS = (0.8, 1.5, 2.3), (0.045, 0.055, 0.066, 0.08), 5.0
LOOP_PARTS = (
    1.0,
    0.7,
    0.45,
    0.2,
)  # of a request's time outside of steps, which callers that come back together lengthen
# So much nearer must the answers come by a front end twice as fast or slow as vLLM's, or by steps not planned ahead.
DOUBT, DOUBT_AHEAD = 0.05, 0.01

_Try = Callable[[StepTimes], Trial]


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

    def count() -> None:
        nonlocal trials
        trials += 1
        on_trial(trials)

    def answers(times: StepTimes) -> list[AnswerTimes]:
        return resent(recording.attempts, limits, learned, times)

    def resend(times: StepTimes) -> Trial:
        count()
        return settled(answers, times)

    def replay(times: StepTimes) -> Trial:
        count()
        tried = replace(learned, times=times)
        return Trial(times, fidelity(recording, jobs, policy, slo, tried, limits, replays=1).distance)

    begins = [resend(replace(learned.times, ahead=ahead)) for ahead in (True, False)]
    # With few streams a front end has time enough for all requests, and other errors would be taken for its work.
    busy = recording.most_sequences * LOOP_WRITE_MS[-1] >= BUSY * learned.times.base_ms
    if any(job.follows is not None for job in jobs):
        best = _in_a_loop([each.times for each in begins], busy, replay)
    else:
        best = min(begins, key=_apart)
        best = min(best, _with_front_end(best.times, resend), key=_distance) if busy else best
    return replace(learned, times=best.times, request=True)


def _with_front_end(times: StepTimes, tried: _Try) -> Trial:
    """The best trial around vLLM's usual front end, one time changed after the other."""
    usual = replace(times, request_ms=times.request_ms / 2, read_ms=READ_MS, write_ms=WRITE_MS)
    best = min((tried(replace(usual, turns=turns)) for turns in TURNS), key=_distance)
    for factor in FACTORS:
        for name in ("read_ms", "write_ms"):
            for by in (factor, 1 / factor):
                found = tried(replace(best.times, **{name: getattr(best.times, name) * by}))
                best = min(best, found, key=_distance)
    return best


def _in_a_loop(begins: Sequence[StepTimes], busy: bool, tried: _Try) -> Trial:
    """The best of these times and of some ``busy`` front ends where callers wait for answers, by whole replays.

    Engines cannot be tried alone there: they would get the next requests before they have answered. Waves of callers make
    the figures jump with the smallest change of the times. So there is no way that leads nearer step by step.
    """
    shorter = [replace(begin, request_ms=part * begin.request_ms) for begin in begins for part in LOOP_PARTS]
    best = min(map(tried, dict.fromkeys(shorter)), key=_distance)
    if not busy:
        return best
    usual = replace(best.times, request_ms=LOOP_REQUEST_MS, turns=TURNS[-1])
    ways = product(LOOP_READ_MS, LOOP_WRITE_MS)
    front_ends = [replace(usual, read_ms=read_ms, write_ms=write_ms) for read_ms, write_ms in ways]
    return min(best, *map(tried, front_ends), key=_distance)


def _apart(trial: Trial) -> float:
    return trial.apart + (0.0 if trial.times.ahead else DOUBT_AHEAD)


def _distance(trial: Trial) -> float:
    times, doubt = trial.times, 0.0
    if times.read_ms:
        doubt = DOUBT * (abs(log(times.read_ms / READ_MS, 2)) + abs(log(times.write_ms / WRITE_MS, 2)))
    return trial.distance + doubt
