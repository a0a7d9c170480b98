"""The time to the first byte of prompts that had their engine to themselves, as a line over their tokens.

The pace of prompts is a ratio of sums, so it spreads the time that each request takes outside of its prompt (HTTP,
tokenizing, the step under way) over the tokens. Short prompts then look too quick and long ones too slow. The line
separates the two:

    t = c + k·n

c is drawn towards 0, and k towards the line through 0, as long as there are few answers or all prompts are alike. Each
answer counts 0.98 times as much with the next. The pace is not used: one answer that hangs raises it for a long time.
"""

from __future__ import annotations

import msgspec

from sage_inference.control_plane.cost import LEAST_PACE, LONGEST_MS, bounded_pace
from sage_inference.control_plane.instances.load import Placement

KEPT = 0.98
CONSTANT_WEIGHT = 0.5  # answers that show a constant of 0
PACE_WEIGHT = 2e5  # squared tokens that show a constant of 0: those of two prompts of 300 tokens
# One answer counts for no more than this beyond its prediction: an engine that stood still must not make the next requests
# look late.
MOST_TIMES, MOST_MORE_MS = 3.0, 100.0


class PromptLine(msgspec.Struct, gc=False):
    """The sums of least squares."""

    weight: float = 0.0
    tokens: float = 0.0
    squares: float = 0.0
    ms: float = 0.0
    products: float = 0.0

    def add(self, tokens: float, took_ms: float) -> None:
        self.weight = KEPT * self.weight + 1.0
        self.tokens = KEPT * self.tokens + tokens
        self.squares = KEPT * self.squares + tokens * tokens
        self.ms = KEPT * self.ms + took_ms
        self.products = KEPT * self.products + tokens * took_ms

    def solved(self) -> tuple[float, float]:
        """c and k. Neither is negative."""
        through_zero = self.products / self.squares
        weight = self.weight + CONSTANT_WEIGHT
        squares, products = self.squares + PACE_WEIGHT, self.products + PACE_WEIGHT * through_zero
        # Positive, because both weights are.
        determinant = weight * squares - self.tokens * self.tokens
        constant = (self.ms * squares - self.tokens * products) / determinant
        if constant < 0.0:
            return 0.0, bounded_pace(through_zero)
        slope = (weight * products - self.tokens * self.ms) / determinant
        if slope < LEAST_PACE:
            return self.ms / weight, LEAST_PACE
        return constant, bounded_pace(slope)


def learn(placement: Placement) -> None:
    """A streamed answer ended. Its prompt had the engine to itself for ``placement.alone_ms`` until its first byte."""
    load, took_ms = placement.instance.load, placement.alone_ms
    pushed_at = placement.pushed_at
    if pushed_at <= load.stalled_at or pushed_at <= load.lost_at or not 0.0 < took_ms < LONGEST_MS:
        return
    line: PromptLine | None = load.line
    if line is None:
        line = load.line = PromptLine()
    expected = load.alone[0] + (load.alone[1] or load.ms_per_token) * placement.tokens
    most_ms = MOST_TIMES * expected + MOST_MORE_MS
    line.add(placement.tokens, took_ms if took_ms < most_ms else most_ms)
    load.alone = line.solved()
