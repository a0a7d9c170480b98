"""The time that a token of embedding work takes from the streams on the same GPU."""

from __future__ import annotations

import math

TIME_SLICED = 0.45  # of its own speed: the speed of each of two processes on one GPU (one H100, measured)
FIRST_CALLS, MORE_CALLS = 24, 12  # of the first look, and of each further one
GROUP = 4  # calls in flight together: several show more than one, of which the GPU computes only a part of the time
SHORT_S = 0.2  # longer calls go one at a time
FEWEST_GAPS = 100  # beside calls, and without
CLIP = 2.5  # usual gaps: a longer one is that of a prompt, whose chance arrival would hide the rest
LEAST_SHARE = 0.05  # of the streams' time: what was not seen is not nothing
KEPT = 0.75  # of the looks before
REFRESH_S = 60.0


class Gaps:
    """The mean gap between two chunks of a stream, without those in which the engine computed a prompt."""

    __slots__ = ("count", "mean", "seconds")

    def __init__(self) -> None:
        self.count = self.seconds = 0.0
        self.mean = math.inf

    def add(self, gap_s: float, usual_s: float) -> None:
        if gap_s <= CLIP * usual_s:
            self.count += 1
            self.seconds += gap_s
            self.mean = self.seconds / self.count

    def fade(self) -> None:
        self.count *= KEPT
        self.seconds *= KEPT


class GPUCost:
    """Seconds of the GPU a token, from the gaps between chunks of streams while a call is in flight, and while none is.

    The wall time of a call is no measure: an engine that tokenizes and serializes in Python uses the GPU for a fifth of
    it, and no engine reports that part. But the streams notice it. If their gaps last ``b`` beside calls and ``o``
    otherwise, the calls took the share 1 - o/b of the streams' time. Alone they would need less than they take from them,
    by what two processes lose that share a GPU. A look needs groups of calls, with pauses between them. It is
    repeated after a while, because calls and streams change.
    """

    __slots__ = (
        "_begun",
        "_beside",
        "_busy_s",
        "_call_s",
        "_calls",
        "_group_tokens",
        "_others",
        "_since",
        "_tokens",
        "_until",
        "looking",
        "seconds_a_token",
    )

    def __init__(self) -> None:
        self.seconds_a_token: float | None = None
        self.looking = False
        self._until = -math.inf  # the last look holds until then
        self._beside, self._others = Gaps(), Gaps()
        self._busy_s = self._tokens = 0.0  # of the calls that were looked at
        self._calls = 0  # of the present look
        self._since = 0.0  # the begin of the last group, or of the pause after it
        self._begun = self._group_tokens = 0  # calls of that group, and the tokens of those that ended
        self._call_s = math.inf  # the time of the last call that had no other beside it

    def is_due(self, now: float) -> bool:
        """Whether the calls should go in groups now, with pauses between them, so that their cost shows."""
        return now >= self._until

    @property
    def sees_streams(self) -> bool:
        return bool(self._others.count)

    def look(self, now: float) -> None:
        """Begin a look, with no call in flight."""
        self.looking, self._since, self._calls = True, now, 0

    def takes_more(self, now: float) -> bool:
        """Whether another call may join those in flight."""
        return (
            self.looking
            and self.sees_streams
            and self._begun < GROUP
            and self._call_s < SHORT_S
            and now - self._since < SHORT_S
        )

    def began(self, now: float, *, first: bool) -> None:
        """A call began. The ``first`` one found no other in flight."""
        if first:
            self._since = now
            self._begun = self._group_tokens = 0
        self._begun += 1

    def streamed(self, gap_s: float, now: float, *, beside: bool) -> None:
        """A stream had a chunk, with or without a call in flight."""
        # A gap that began before the call, or before its end, belongs to neither kind.
        if now - gap_s < self._since:
            return
        usual_s = min(self._others.mean, self._beside.mean)
        (self._beside if beside else self._others).add(gap_s, usual_s)

    def interrupted(self) -> None:
        """End a look without a result: the streams ended, or a time passed that shows nothing."""
        self.looking = False

    def ended(self, tokens: int, now: float, *, last: bool) -> None:
        """A call ended that had streams beside it all the time. After the ``last`` one none is in flight."""
        self._calls += 1
        self._group_tokens += tokens
        if not last:
            return
        took = now - self._since
        if self._begun == 1:
            self._call_s = took
        self._tokens += self._group_tokens
        self._busy_s += took
        self._since = now
        beside, others = self._beside, self._others
        calls = FIRST_CALLS if self.seconds_a_token is None else MORE_CALLS
        if self._calls < calls or min(beside.count, others.count) < FEWEST_GAPS:
            return
        share = max(LEAST_SHARE, 1 - others.mean / beside.mean)
        self.seconds_a_token = TIME_SLICED / (1 - TIME_SLICED) * share * self._busy_s / self._tokens
        self._until = now + REFRESH_S
        self.looking = False
        for gaps in (beside, others):
            gaps.fade()
        self._busy_s *= KEPT
        self._tokens *= KEPT
