"""How near modelled engines come to the recorded answers, by which their times are tuned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import log
from statistics import fmean, median

from sage_inference.replay.events import Events
from sage_inference.replay.learning import Learned
from sage_inference.replay.llm_engine import EngineLimits, LLMEngine, ModelledSequence
from sage_inference.replay.recording import Sent
from sage_inference.simulator.timing import StepTimes

MOST = 2000  # answers that are compared
SLOWEST = 0.05  # of the waits count once more, by half: percentiles far out are made of them
ROUNDS = 3
CLOSE_MS = 0.5


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """One answer, as recorded and as modelled: the time until its first byte, and from there to its end.

    Of an answer in one piece, ``waits`` are the times until its end.
    """

    waits: tuple[float, float]
    tokens: tuple[float, float] = (0.0, 0.0)


Answers = Callable[[StepTimes], list[AnswerTimes]]  # of engines with these times


@dataclass(frozen=True, slots=True)
class Trial:
    """Engines with these times, and the distance of their answers from the recorded ones.

    ``distance`` compares the times as distributions, because a single answer differs as much between two equal runs.
    ``apart`` compares the time until the first byte answer by answer, in the median: the step in which a prompt was
    computed shows there. ``early_ms`` is how much earlier the first byte came than recorded, in the median.
    """

    times: StepTimes
    distance: float
    apart: float = 0.0
    early_ms: float = 0.0


def trial(answers: Answers, times: StepTimes) -> Trial:
    found = answers(times)
    waits = [each.waits for each in found]
    early = median([recorded - modelled for recorded, modelled in waits] or [0.0])
    far = _apart(waits)
    slowest = far[-max(1, round(SLOWEST * len(far))) :]
    tokens = _apart(each.tokens for each in found)
    single = [_far(*each) for each in waits if each[0] > 0.0]
    return Trial(times, _mean(far) + _mean(slowest) / 2 + _mean(tokens), median(single or [0.0]), early)


def settled(answers: Answers, times: StepTimes) -> Trial:
    """The trial of the time outside of steps with which half of the first bytes come early, and half late."""
    found = trial(answers, times)
    for _ in range(ROUNDS):
        request_ms = max(0.0, found.times.request_ms + found.early_ms)
        if abs(request_ms - found.times.request_ms) < CLOSE_MS:
            break
        found = trial(answers, replace(found.times, request_ms=request_ms))
    return found


def _apart(pairs: Iterable[tuple[float, float]]) -> list[float]:
    """The distances between two sets of times, each in order: as logarithms, so half and twice are equally far."""
    both = [(recorded, modelled) for recorded, modelled in pairs if recorded > 0.0]
    recorded, modelled = (sorted(side) for side in zip(*both, strict=True)) if both else ((), ())
    return [_far(*each) for each in zip(recorded, modelled, strict=True)]


def _far(one: float, other: float) -> float:
    return abs(log(max(one, 0.1) / max(other, 0.1)))


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


class _Attempt:
    """Listens to the sequence of one attempt."""

    def __init__(self, events: Events, sent: Sent) -> None:
        self._events = events
        self.sent = sent
        self.first_ms = self.end_ms = 0.0

    def first_token(self, cached: int) -> None:
        self.first_ms = self._events.now

    def streamed(self, gap_ms: float) -> None:
        """Nothing to note: the end shows it."""

    def finished(self) -> None:
        self.end_ms = self._events.now

    @property
    def answered(self) -> AnswerTimes:
        at, first, end = self.sent.sent_ms, self.sent.first_ms, self.sent.end_ms
        if first is None:
            return AnswerTimes((end - at, self.end_ms - at))
        return AnswerTimes((first - at, self.first_ms - at), (end - first, self.end_ms - self.first_ms))


def resent(
    attempts: Sequence[Sent], limits: EngineLimits, learned: Learned, times: StepTimes
) -> list[AnswerTimes]:
    """The answers of engines that get the recorded attempts at their recorded times, without a scheduler."""
    events, learned, found = Events(), replace(learned, times=times), []
    first = sorted(attempts, key=lambda each: each.sent_ms)[:MOST]
    events.now = first[0].sent_ms
    engines = {each.instance: LLMEngine(events, limits, learned.of(each.instance)) for each in first}

    def send(each: Sent) -> None:
        found.append(attempt := _Attempt(events, each))
        engines[each.instance].submit(ModelledSequence(each.prompt, each.output, each.blocks, attempt))

    for each in first:
        if each.output and each.prompt + each.output <= limits.longest:
            events.at(each.sent_ms, lambda each=each: send(each))  # type: ignore[misc]
    while events.step():
        pass
    return [each.answered for each in found if each.sent.teaches and each.end_ms]
