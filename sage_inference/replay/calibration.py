"""The time that is missing until the first byte when engines with learned step times get the recorded requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from sage_inference.replay.events import Events
from sage_inference.replay.learning import Learned
from sage_inference.replay.llm_engine import EngineLimits, LLMEngine, ModelledSequence
from sage_inference.replay.recording import Sent

MOST = 2000  # attempts that are compared
ROUNDS = 3
CLOSE_MS = 0.5


class _Answer:
    """Listens to the sequence of one attempt."""

    def __init__(self, events: Events, attempt: Sent) -> None:
        self._events = events
        self.attempt = attempt
        self.first_ms = self.end_ms = 0.0

    def first_token(self, cached: int) -> None:
        self.first_ms = self._events.now

    def streamed(self, gap_ms: float) -> None:
        """Nothing to note: the end shows it."""

    def finished(self) -> None:
        self.end_ms = self._events.now

    @property
    def early_ms(self) -> float:
        """How much earlier its first byte came than in the record."""
        first = self.attempt.first_ms
        return self.attempt.end_ms - self.end_ms if first is None else first - self.first_ms


def missing_ms(attempts: Sequence[Sent], limits: EngineLimits, learned: Learned) -> float:
    """The time outside of steps with which half of the first bytes come early, and half late."""
    first = sorted(attempts, key=lambda each: each.sent_ms)[:MOST]
    found = 0.0
    for _ in range(ROUNDS):
        times = replace(learned.times, request_ms=found)
        answers = _answers(first, limits, replace(learned, times=times))
        early = median([each.early_ms for each in answers if each.attempt.teaches] or [0.0])
        found = max(0.0, found + early)
        if abs(early) < CLOSE_MS:
            break
    return found


def _answers(attempts: Sequence[Sent], limits: EngineLimits, learned: Learned) -> list[_Answer]:
    """The answers of modelled engines that get the attempts at their recorded times, without a scheduler."""
    events = Events()
    events.now = attempts[0].sent_ms
    engines = {each.instance: LLMEngine(events, limits, learned.of(each.instance)) for each in attempts}
    answers = []

    def send(each: Sent) -> None:
        answers.append(answer := _Answer(events, each))
        engines[each.instance].submit(ModelledSequence(each.prompt, each.output, each.blocks, answer))

    for each in attempts:
        if each.output and each.prompt + each.output <= limits.longest:
            events.at(each.sent_ms, lambda each=each: send(each))  # type: ignore[misc]
    while events.step():
        pass
    return answers
