"""Rows for least squares: the recorded time of answers beside the work that their engine did meanwhile.

The terms of a row are multiples of ``USUAL``'s: a coefficient of 2 makes that term of a step twice as long.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from sage_inference.replay.least_squares import Row
from sage_inference.replay.recording import Sent
from sage_inference.simulator.timing import USUAL

BASE, SEQUENCE, CONTEXT, PROMPT, ATTENTION, WITHIN, REQUEST = range(7)
REQUEST_UNIT_MS = 10.0
SAME_STEP_MS = 3.0  # first bytes of one step come within this
STEP_TOKENS = 8192  # prompt tokens in a step, at the most
MOST_PER_MS = 20.0  # tokens of a sequence; a count beyond that is wrong
FEWEST_TOKENS = 4  # of an answer whose tokens are worth a row


PromptWork = tuple[float, float, float]


class _Integral:
    """The integral over time of a sum of weights, each of which counts from one time to another."""

    def __init__(self, spans: Iterable[tuple[float, float, float]]) -> None:
        changes = sorted(
            change for begin, end, weight in spans for change in ((begin, weight), (end, -weight))
        )
        self._times = [at for at, _ in changes] or [0.0]
        self._heights = list(accumulate(weight for _, weight in changes)) or [0.0]
        areas = [
            height * (later - at)
            for height, (at, later) in zip(self._heights, pairwise(self._times), strict=False)
        ]
        self._areas = list(accumulate(areas, initial=0.0))

    def height(self, at: float) -> float:
        """The sum just before a time."""
        place = bisect_left(self._times, at) - 1
        return self._heights[place] if place >= 0 else 0.0

    def mean(self, begin: float, end: float) -> float:
        return (self._until(end) - self._until(begin)) / (end - begin)

    def _until(self, at: float) -> float:
        place = bisect_right(self._times, at) - 1
        return self._areas[place] + self._heights[place] * (at - self._times[place]) if place >= 0 else 0.0


class _EngineWork:
    """The sequences and prompts of one engine over time."""

    def __init__(self, attempts: Sequence[Sent]) -> None:
        spans = [(_began(each), each.end_ms) for each in attempts]
        self.sequences = _Integral(
            (begin, end, each.choices) for each, (begin, end) in zip(attempts, spans, strict=True)
        )
        self.context = _Integral(
            (begin, end, each.prompt + min(each.output, MOST_PER_MS * (end - begin)) / 2)
            for each, (begin, end) in zip(attempts, spans, strict=True)
        )
        prompts = sorted((_began(each), *prompt_work(each)) for each in attempts)
        self._began = [at for at, *_ in prompts]
        self._work = [list(accumulate(each, initial=0.0)) for each in list(zip(*prompts, strict=True))[1:]]

    def prompts(self, begin: float, end: float) -> PromptWork:
        """The work on prompts whose answers began after ``begin`` and until ``end``."""
        first, last = bisect_right(self._began, begin), bisect_right(self._began, end)
        tokens, before, within = (each[last] - each[first] for each in self._work)
        return tokens, before, within


def rows_of(attempts: Sequence[Sent]) -> list[Row]:
    """The rows of one engine's attempts."""
    work = _EngineWork(attempts)
    rows: list[Row] = []
    for each in attempts:
        if not each.teaches:
            continue
        if each.first_ms is None:
            rows += _whole(each, work)
        elif each.output >= FEWEST_TOKENS:
            rows += _tokens(each, each.first_ms, work)
    rows += _undisturbed(attempts, work)
    return rows


def prompt_work(each: Sent) -> PromptWork:
    """The computed prompt tokens, their pairs with tokens of earlier steps, and their pairs within a step."""
    steps, rest = divmod(each.computed, STEP_TOKENS)
    within = (steps * STEP_TOKENS**2 + rest**2) / 2
    return each.computed, each.computed * (each.prompt - each.computed / 2) - within, within


def _began(each: Sent) -> float:
    """When it began to generate. For an answer in one piece that is not known, and near its begin."""
    return each.sent_ms if each.first_ms is None else each.first_ms


def _row(
    steps: float, sequences: float, context: float, prompts: PromptWork, requests: int, took: float
) -> Row:
    return (
        steps * USUAL.base_ms,
        steps * sequences * USUAL.sequence_ms,
        steps * context * USUAL.context_ms,
        prompts[0] * USUAL.prompt_ms,
        prompts[1] * USUAL.attention_ms,
        prompts[2] * USUAL.within_ms,
        requests * REQUEST_UNIT_MS,
    ), took


def _tokens(each: Sent, first: float, work: _EngineWork) -> Iterable[Row]:
    """The time from the first token to the last, in which prompts of others were computed as well."""
    end = each.end_ms
    if end - first > SAME_STEP_MS:
        prompts = work.prompts(first + SAME_STEP_MS, end + SAME_STEP_MS)
        sequences, context = work.sequences.mean(first, end), work.context.mean(first, end)
        yield _row(each.output - 1, sequences, context, prompts, 0, end - first)


def _whole(each: Sent, work: _EngineWork) -> Iterable[Row]:
    """The time of an answer in one piece, its own prompt included."""
    begin, end = each.sent_ms, each.end_ms
    if end > begin:
        tokens, before, within = (
            sum(both) for both in zip(work.prompts(begin, end), prompt_work(each), strict=True)
        )
        sequences, context = work.sequences.mean(begin, end), work.context.mean(begin, end)
        yield _row(each.output + 0.5, sequences, context, (tokens, before, within), 1, end - begin)


def _undisturbed(attempts: Sequence[Sent], work: _EngineWork) -> Iterable[Row]:
    """The time to the first token of prompts that had the engine's prompt budget to themselves."""
    ordered = sorted(attempts, key=lambda each: each.sent_ms)
    done = float("-inf")  # when all prompts sent so far had been computed
    for place, each in enumerate(ordered):
        first = each.first_ms
        later = ordered[place + 1].sent_ms if place + 1 < len(ordered) else float("inf")
        alone = each.sent_ms >= done and first is not None and later >= first
        if alone and each.teaches and first is not None and first > each.sent_ms:
            beside = work.sequences.height(each.sent_ms)
            # Half a step of the others is under way on average when it comes.
            steps = (0.5 if beside else 0.0) + max(1.0, each.computed / STEP_TOKENS)
            context = work.context.height(each.sent_ms) + each.prompt
            took = first - each.sent_ms
            yield _row(steps, beside + 1, context, prompt_work(each), 1, took)
        done = max(done, each.end_ms if first is None else first)
