"""Learns an engine's step times from a record of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from sage_inference.replay.least_squares import NormalEquations, Row
from sage_inference.replay.recording import Recording, Sent
from sage_inference.replay.step_rows import (
    ATTENTION,
    BASE,
    CONTEXT,
    PROMPT,
    REQUEST,
    REQUEST_UNIT_MS,
    SEQUENCE,
    WITHIN,
    rows_of,
)
from sage_inference.simulator.timing import USUAL, StepTimes

FEWEST_ROWS = 8
STRENGTH = 2.0  # rows that a guess counts for
LEAST = 0.02  # times the usual
FAR = 4.0  # times the median error; such rows are left out: an engine that stood still, or started anew
# Than the median of all rows, in terms of the usual times. A prompt of few tokens takes long outside of steps.
SLOWER, QUICKER = 30.0, 10.0
SURE = 0.8  # a term is learned if the rows decide so much of it


@dataclass(frozen=True, slots=True)
class Learned:
    """Step times, and which of them the record decided. ``rows`` is the number of times that they follow from.

    ``own`` are those of engines whose models others do not serve. The times outside of steps are the same for all.
    """

    times: StepTimes
    decode: bool
    prompts: bool
    request: bool
    rows: int
    own: Mapping[str, StepTimes] = field(default_factory=dict)

    def of(self, engine: str) -> StepTimes:
        own, all_ = self.own.get(engine), self.times
        if own is None:
            return all_
        return replace(
            own,
            request_ms=all_.request_ms,
            read_ms=all_.read_ms,
            write_ms=all_.write_ms,
            ahead=all_.ahead,
            turns=all_.turns,
        )


NOTHING = Learned(USUAL, False, False, False, 0)


def learn(recording: Recording) -> Learned:
    """The step times of engines together that serve the same models.

    Terms that the record does not decide stay near the usual ones.
    """
    learned = _learned(recording.attempts)
    own: dict[str, StepTimes] = {}
    groups = recording.groups
    for names in groups if len(groups) > 1 else ():
        found = _learned([each for each in recording.attempts if each.instance in names])
        if found.decode:
            own.update(dict.fromkeys(names, found.times))
    return replace(learned, own=own)


def _learned(attempts: Sequence[Sent]) -> Learned:
    rows: list[Row] = []
    for name in {each.instance for each in attempts}:
        rows += rows_of([each for each in attempts if each.instance == name])
    rows = _credible(rows)
    if len(rows) < FEWEST_ROWS:
        return NOTHING
    found, known = _fitted(rows)
    errors = [abs(_sum(row, found) / took - 1.0) for row, took in rows]
    most = max(FAR * median(errors), 0.1)
    near = [row for row, error in zip(rows, errors, strict=True) if error <= most]
    if len(near) < len(rows):
        found, known = _fitted(near)
    decode, prompts, request = (part >= SURE for part in known)
    return Learned(_times(found, prompts), decode, prompts, request, len(near))


def _credible(rows: Sequence[Row]) -> list[Row]:
    """The rows without those of wrong counts, one of which would decide everything."""
    slowness = [took / sum(row[:REQUEST]) for row, took in rows]
    usual = median(slowness) if slowness else 1.0
    return [row for row, slow in zip(rows, slowness, strict=True) if usual / QUICKER < slow < usual * SLOWER]


def _fitted(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """The multiples of the usual terms, and how far the rows decide decoding, prompts, and the constant."""
    groups = NormalEquations(3)
    groups.add(((sum(row[:PROMPT]), sum(row[PROMPT:REQUEST]), row[REQUEST]), took) for row, took in rows)
    weak = STRENGTH / 20
    decode, prompts, request = groups.solve((1.0, 1.0, 0.0), weak, (LEAST, LEAST, 0.0))
    terms = NormalEquations(REQUEST + 1)
    terms.add(rows)
    guesses = (*[decode] * PROMPT, *[prompts] * (REQUEST - PROMPT), request)
    return terms.solve(guesses, STRENGTH, (*[LEAST] * REQUEST, 0.0)), groups.known(weak)


def _sum(row: Sequence[float], found: Sequence[float]) -> float:
    return sum([term * each for term, each in zip(row, found, strict=True)])


def _times(found: Sequence[float], prompts: bool) -> StepTimes:
    return replace(
        USUAL,
        base_ms=found[BASE] * USUAL.base_ms,
        sequence_ms=found[SEQUENCE] * USUAL.sequence_ms,
        context_ms=found[CONTEXT] * USUAL.context_ms,
        prompt_ms=found[PROMPT] * USUAL.prompt_ms,
        attention_ms=found[ATTENTION] * USUAL.attention_ms,
        within_ms=found[WITHIN] * USUAL.within_ms,
        hidden_ms=0.0 if prompts else USUAL.hidden_ms,
        request_ms=found[REQUEST] * REQUEST_UNIT_MS,
    )
