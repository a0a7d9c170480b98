"""A replay of what was recorded, beside the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from statistics import fmean, median

from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.fleet import recorded_fleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.learning import Learned
from sage_inference.replay.llm_engine import EngineLimits
from sage_inference.replay.recording import Recording
from sage_inference.replay.repeats import repeats, varied
from sage_inference.replay.report import percentile
from sage_inference.replay.run import Run
from sage_inference.replay.slo import ReplaySlo

STREAMED = 0.5  # of the answers, at least: then their first tokens are compared, otherwise whole answers


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure, in milliseconds or as a share: as recorded, and as replayed.

    ``replays`` are those of all replays in order, and ``replayed`` is their median.
    """

    name: str
    recorded: float
    replays: tuple[float, ...]

    @property
    def replayed(self) -> float:
        return median(self.replays)

    @property
    def is_share(self) -> bool:
        return self.name == "goodput"

    @property
    def error(self) -> float:
        """The relative error; of a share, the difference."""
        if self.is_share:
            return self.replayed - self.recorded
        return self.replayed / self.recorded - 1.0 if self.recorded > 0 else 0.0

    @property
    def distance(self) -> float:
        """The error as a number of which half as long counts as much as twice as long."""
        return abs(self.error if self.is_share else log(max(1.0 + self.error, 1e-3)))


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The figures of one policy. Empty if the record has no times of answers."""

    policy: str
    requests: int
    figures: tuple[Compared, ...]

    @property
    def distance(self) -> float:
        """The mean of the figures' distances."""
        return fmean(each.distance for each in self.figures) if self.figures else 0.0


def fidelity(
    recording: Recording,
    jobs: Sequence[Job],
    policy: str,
    slo: ReplaySlo,
    learned: Learned,
    limits: EngineLimits,
    replays: int | None = None,
) -> Fidelity:
    """Replay ``jobs``, the first of the record's, under the recorded policy; otherwise under ``policy``."""
    name = recording.policy or policy

    def replayed(number: int) -> list[Outcome]:
        fleet = recorded_fleet(recording, limits, learned)
        return Run(policy_named(name, fleet.clock), fleet, slo=slo).play(varied(jobs, number))

    outcomes = [replayed(number) for number in range(replays or repeats(len(jobs)))]
    return Fidelity(name, len(jobs), _figures(recording.outcomes[: len(jobs)], outcomes, slo))


def _figures(
    recorded: Sequence[Outcome], replays: Sequence[Sequence[Outcome]], slo: ReplaySlo
) -> tuple[Compared, ...]:
    if not any(outcome.end_ms is not None for outcome in recorded):
        return ()
    streamed = [outcome for outcome in recorded if outcome.job.streams and outcome.first_ms is not None]
    if len(streamed) < STREAMED * len(recorded):
        wholes = [[o.e2e_ms for o in side if o.e2e_ms is not None] for side in (recorded, *replays)]
        return _percentiles("E2E", wholes, (0.5, 0.99))
    sides = [streamed, *([outcome for outcome in side if outcome.job.streams] for side in replays)]
    firsts = [[o.ttft_ms for o in side if o.ttft_ms is not None] for side in sides]
    tokens = [[o.tpot_ms for o in side if o.tpot_ms is not None] for side in sides]
    kept = [sum(map(slo.kept, side)) / max(1, len(side)) for side in sides]
    return (
        *_percentiles("TTFT", firsts, (0.5, 0.99)),
        *_percentiles("TPOT", tokens, (0.5,)),
        _compared("goodput", kept),
    )


def _percentiles(name: str, sides: Sequence[Sequence[float]], parts: Sequence[float]) -> tuple[Compared, ...]:
    ordered = [sorted(values) for values in sides]
    if not all(ordered):
        return ()
    return tuple(
        _compared(f"{name} p{100 * part:.0f}", [percentile(values, part) or 0.0 for values in ordered])
        for part in parts
    )


def _compared(name: str, sides: Sequence[float]) -> Compared:
    """A figure of the record, and of its replays."""
    return Compared(name, sides[0], tuple(sorted(sides[1:])))


def limits_of(recording: Recording, block_tokens: int) -> EngineLimits:
    """The limits of the recorded engines. Those that the record does not have are the usual ones."""
    usual, known = EngineLimits(), list(recording.engines.values())
    kv = [each.kv_tokens for each in known if each.kv_tokens]
    windows = [each.window_tokens for each in known if each.window_tokens]
    return replace(
        usual,
        block_tokens=block_tokens,
        # An engine that did answer these had room for them.
        kv_tokens=max(
            min(kv, default=usual.kv_tokens), recording.longest + block_tokens, recording.most_tokens
        ),
        max_num_batched_tokens=min(windows, default=usual.max_num_batched_tokens),
        max_num_seqs=max(usual.max_num_seqs, recording.most_sequences),
    )
