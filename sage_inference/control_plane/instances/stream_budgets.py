"""How near the streams of a GPU are to missing their SLO, which decides whether embeddings may run beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sage_inference.control_plane.instances.load import Counted, Placement
from sage_inference.control_plane.slo import ttft_s

PLANNED = 0.65  # of the TPOT: the mean of each stream, so that it is in time wherever it ends
TOLERANCE = 4.0  # TPOTs that a stream may be behind its plan: a prompt beside it, or a call of embeddings
LOST = 2.0  # times the TPOT or the TTFT: no pause saves that stream any more
RISKY = 0.25  # of the TTFT: from here on a waiting prompt counts, and from twice that on embeddings pause
LONGEST_GAP_S = 1.0  # since the last token: a caller that does not read is no fault of the GPU


class StreamBudget:
    """The tokens of one stream and the time that they took."""

    __slots__ = ("last_at", "spent_s", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.spent_s = self.last_at = 0.0

    def streamed(self, gap_s: float, now: float) -> None:
        """A chunk came, ``gap_s`` after the one before. Most engines send one for each token."""
        self.tokens += 1
        self.spent_s += gap_s
        self.last_at = now

    def urgency(self, tpot_s: float, now: float) -> float:
        """How much of its tolerance the stream has used up: below 0 with time to spare, from 1 on too late."""
        tokens = self.tokens
        if not tokens:
            return 0.0
        since = now - self.last_at
        spent = self.spent_s + (since if since < LONGEST_GAP_S else LONGEST_GAP_S)
        return _urgency(tokens, spent, tpot_s)


class UnwatchedBudget:
    """The budget of a stream whose gaps nobody notes, worked out when it is asked for. A chunk costs nothing here."""

    spent_s = 0.0
    __slots__ = ("_stream", "last_at")

    def __init__(self, stream: Counted, now: float) -> None:
        self._stream = stream
        self.last_at = now  # the first chunk: the time of all others is still to be added

    @property
    def tokens(self) -> int:
        return max(0, self._stream.chunks - 1)

    def urgency(self, tpot_s: float, now: float) -> float:
        return _urgency(self.tokens, now - self.last_at, tpot_s) if self.tokens else 0.0


class Look(Protocol):
    looking: bool


class GapWatch(Protocol):
    """Learns from the gaps of all streams, while its ``cost`` is looking."""

    @property
    def cost(self) -> Look: ...

    def saw_gap(self, gap_s: float, now: float) -> None: ...


class WatchedBudget(StreamBudget):
    """Passes gaps on as well, while they are looked at. One function for both, because a chunk calls only one."""

    __slots__ = ("_watch",)

    def __init__(self, watch: GapWatch) -> None:
        super().__init__()
        self._watch = watch

    def streamed(self, gap_s: float, now: float) -> None:
        self.tokens += 1
        self.spent_s += gap_s
        self.last_at = now
        if self._watch.cost.looking:
            self._watch.saw_gap(gap_s, now)


class StreamBudgets:
    """The LLM requests in flight on one GPU, each with the time that its SLO leaves to it.

    An SLO is about the mean over a whole stream, so no single gap decides. A stream has the budget of n · TPOT for n
    tokens. Each token adds to it, and time uses it up. This is the Generic Cell Rate Algorithm (ITU-T I.371) with the GPU
    as the sender: token n is due n · ``PLANNED`` · TPOT after the first, and may be late by a tolerance. Unlike there, a
    stream that is early keeps what it saved. Embeddings may run while every stream is within its tolerance: one call
    after the other is the smallest change, so the plan is kept without a gain to be tuned. A prompt has its TTFT as
    budget.
    """

    __slots__ = ("_budgets",)

    def __init__(self) -> None:
        # None before the first token
        self._budgets: dict[Placement, StreamBudget | UnwatchedBudget | None] = {}

    def began(self, placement: Placement) -> None:
        self._budgets[placement] = None

    def ended(self, placement: Placement) -> None:
        self._budgets.pop(placement, None)

    def follow(self, placement: Placement, stream: Counted, now: float) -> None:
        """The first chunk of the stream came. Its gaps are not noted until there is a listener."""
        if placement in self._budgets:
            self._budgets[placement] = UnwatchedBudget(stream, now)

    def listener(
        self, placement: Placement, watch: GapWatch | None = None, now: float = 0.0
    ) -> Callable[[float, float], None]:
        """A function for each gap between two chunks of the stream, and the time after it. ``watch`` gets them too."""
        budget: StreamBudget = StreamBudget() if watch is None else WatchedBudget(watch)
        former = self._budgets.get(placement)
        if isinstance(former, UnwatchedBudget):
            budget.tokens, budget.spent_s, budget.last_at = former.tokens, now - former.last_at, now
        if placement in self._budgets:
            self._budgets[placement] = budget
        return budget.streamed

    def urgency(self, tpot_s: float, now: float) -> float:
        """That of the stream or prompt which is nearest to missing its SLO, of those that still can keep it."""
        most, planned_s = 0.0, PLANNED * tpot_s
        for placement, budget in self._budgets.items():
            if budget is not None:
                # Most streams are ahead of their plan: no call for these, of which there may be hundreds.
                if budget.spent_s + now - budget.last_at < planned_s * budget.tokens:
                    continue
                found = budget.urgency(tpot_s, now)
            elif placement.answered_at is None:
                waited = (now - placement.request.arrived) / ttft_s(placement.request)
                found = waited / RISKY - 1.0 if waited < LOST else 0.0
            else:
                continue
            if found > most:
                most = found
        return most


def _urgency(tokens: int, spent_s: float, tpot_s: float) -> float:
    tolerance = TOLERANCE * tpot_s
    if spent_s - LOST * tpot_s * tokens > LOST * tolerance:
        return 0.0
    return (spent_s - PLANNED * tpot_s * tokens) / tolerance
