"""The load that a request puts on an instance from dispatch to end, and the pace that its first byte shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from sage_inference.control_plane import cost
from sage_inference.control_plane.cost import LEAST_PACE, LONGEST_MS, MOST_PACE
from sage_inference.types import (
    ExecutionInstance,
    InstanceLoad,
    RequestType,
    SchedulingDecision,
    SchedulingRequest,
    Usage,
)

# A candidate at the time of a decision: the instance, its requests in flight, its prompt tokens that have not begun, the
# time of its last progress, its milliseconds a token, and those of a prompt that nothing precedes.
Seen = tuple[ExecutionInstance, int, int, float, float, tuple[float, float]]

_KEPT = 0.98  # of the past, at each first byte
# Of the first bytes that show the time of a prompt that nothing precedes, the first ones are all read, and later one in 32.
SURE, EVERY = 64, 31
STEP_TOKENS = 512  # a prompt takes at least one step of the streams beside it
# Overdue requests wait no longer than this for the time that prompts took beyond their share: the streams that suffered
# from it have ended by then.
MOST_OWED_S = 10.0

_NO_REQUEST = SchedulingRequest("", RequestType.LLM_CHAT, "", arrived=0.0)
_NO_DECISION = SchedulingDecision("", "", "")


class Counted(Protocol):
    """A stream that counts its chunks after the first."""

    chunks: int


class GPUWork(Protocol):
    """The work on one GPU, where LLM and embedding work share it.

    ``watches``: whether gaps between the chunks of streams should be noted now, ``watches_since`` when that began.
    """

    watches: bool
    watches_since: float

    def began(self, placement: Placement, llm: bool) -> None: ...

    def ended(self, placement: Placement, llm: bool, now: float) -> None: ...

    def follow(self, placement: Placement, stream: Counted, now: float) -> None: ...

    def listener(self, placement: Placement, now: float = 0.0) -> Callable[[float, float], None] | None: ...


class Placement(msgspec.Struct, gc=False, eq=False):
    """One attempt of a request on an instance; ``pending`` while its prompt counts as not begun.

    A placement is also the record of the attempt. Times are the scheduler's; None stands for events that did not happen
    (yet). ``seen`` are the candidates as they were at the decision, if the scheduler is watched. It is a struct because a
    thousand of them are kept.
    """

    instance: ExecutionInstance
    tokens: int
    pushed_at: float
    request: SchedulingRequest = msgspec.field(default_factory=lambda: _NO_REQUEST)
    decision: SchedulingDecision = msgspec.field(default_factory=lambda: _NO_DECISION)
    seen: Sequence[Seen] = ()
    pending: bool = True
    # The next three are set if the answer comes in one piece and will be read for its pace: the tokens that the instance
    # had begun when it was pushed, the requests beside it (-1: it will not be read), and the expected time of a token of
    # its answer (0: not known).
    begun_before: int = 0
    beside: int = -1
    token_ms: float = 0.0
    answers: int = 1  # choices that share the tokens of the answer; 0: their number is not known
    shared: GPUWork | None = None  # of its GPU, if work of the other kind runs there
    expected_at: float = math.inf
    overdue: bool = False
    alone_ms: float = 0.0  # until its first byte, if nothing preceded its prompt
    answered_at: float | None = None  # when its first byte came
    ended_at: float | None = None
    outcome: str | None = None
    status: int | None = None
    usage: Usage | None = None
    # Of the instance's busy time: its clock when this attempt began, later the seconds that this attempt had of it.
    busy_s: float = 0.0

    def __post_init__(self) -> None:
        instance, pushed_at = self.instance, self.pushed_at
        load, running = instance.load, instance.active_requests
        if not load.pending_tokens:
            load.progress_at = pushed_at
        load.pending_tokens += self.tokens
        # n requests in flight share the time equally: ``shared_s`` is what each of them has had, had it been there always.
        if running:
            load.shared_s += (pushed_at - load.shared_at) / running
        load.shared_at = pushed_at
        self.busy_s = load.shared_s
        instance.active_requests = running + 1

    def expect(self, now: float) -> float:
        """Predict the end of its prefill, because the first byte of its answer will not show it."""
        load = self.instance.load
        # ``now`` plus ``cost.backlog_ms``, without its call: every answer in one piece comes here.
        at = load.progress_at + load.ms_per_token * load.pending_tokens / 1000
        if at < now:
            at = now
        self.expected_at = at
        return at

    def begun(self, now: float, teaches: bool = True) -> None:
        """Its first byte came: the instance made progress, and showed its pace.

        M ← 0.98·M + dt and U ← 0.98·U + u, with u tokens in the dt ms since the byte before or its own push. The pace is
        M / U.
        """
        if self.pending:
            took = self._no_longer_pending(now)
            load, pushed_at = self.instance.load, self.pushed_at
            if teaches and pushed_at > load.lost_at and pushed_at > load.stalled_at:
                learn(load, self.tokens, took * 1000)
                # The line over such prompts is learned when the answer has ended, in the end from one in 32.
                if (
                    took == now - pushed_at
                    and self.request.streams
                    and (load.taught < SURE or not load.taught & EVERY)
                ):
                    self.alone_ms = took * 1000

    def resize(self, tokens: int) -> None:
        """Set its tokens, which were not known when it was placed."""
        if self.pending:
            self.instance.load.pending_tokens += tokens - self.tokens
        self.tokens = tokens

    def presumed_begun(self) -> None:
        """The prompt of a pending one should be done by now, though no byte has shown it."""
        began_at, expected_at = self.instance.load.progress_at, self.expected_at
        self._no_longer_pending(expected_at if expected_at > began_at else began_at)

    def ended(self, now: float) -> None:
        """The attempt is over: slot and pending tokens go back."""
        instance = self.instance
        load, running = instance.load, instance.active_requests
        instance.active_requests = running - 1
        load.shared_s += (now - load.shared_at) / (running or 1)
        load.shared_at = now
        self.busy_s = load.shared_s - self.busy_s
        self.ended_at = now
        if self.pending:
            self.pending = False
            load.pending_tokens -= self.tokens
        if self.overdue:
            load.overdue -= 1

    def count_as_overdue(self) -> None:
        self.overdue = True
        self.instance.load.overdue += 1

    def _no_longer_pending(self, progress_at: float) -> float:
        """Seconds that the instance spent on its prompt."""
        self.pending = False
        load = self.instance.load
        load.pending_tokens -= self.tokens
        load.begun_tokens += self.tokens
        # Comparisons, because a call of ``max`` takes ten times as long.
        since, pushed_at, spares_from = load.progress_at, self.pushed_at, load.spares_from
        if since < pushed_at:
            since = pushed_at
        if spares_from < since:
            spares_from = since
        took = progress_at - since
        spares_from += took / load.prompt_share
        if spares_from > progress_at + MOST_OWED_S:
            spares_from = progress_at + MOST_OWED_S
        load.spares_from = spares_from
        load.progress_at = progress_at
        return took


def as_seen(instances: Sequence[ExecutionInstance]) -> Sequence[Seen]:
    """The candidates as they are now, to be kept in ``Placement.seen``."""
    if len(instances) == 1:  # without the call that a comprehension is
        (only,) = instances
        load = only.load
        return (
            (
                only,
                only.active_requests,
                load.pending_tokens,
                load.progress_at,
                load.ms_per_token,
                load.alone,
            ),
        )
    # A tuple, because it is little more than half as large as a list, and many are kept.
    return tuple(
        [
            (
                i,
                i.active_requests,
                (load := i.load).pending_tokens,
                load.progress_at,
                load.ms_per_token,
                load.alone,
            )
            for i in instances
        ]
    )


def learn(load: InstanceLoad, tokens: int, took_ms: float) -> None:
    """Note that ``tokens`` of a prompt took ``took_ms``. A time that no clock can have measured is ignored."""
    if not 0.0 <= took_ms < LONGEST_MS:
        return
    load.taught += 1
    load.busy_ms = busy_ms = _KEPT * load.busy_ms + took_ms
    load.busy_tokens = busy_tokens = _KEPT * load.busy_tokens + tokens
    load.paced_tokens = _KEPT * load.paced_tokens + (tokens if tokens > STEP_TOKENS else STEP_TOKENS)
    pace = busy_ms / busy_tokens * load.own_share + load.whole_part
    load.ms_per_token = pace if LEAST_PACE < pace < MOST_PACE else cost.bounded_pace(pace)


def own_pace(load: InstanceLoad) -> float:
    """The pace that first bytes alone show."""
    return cost.bounded_pace(load.busy_ms / load.busy_tokens)


def backlog_ms(load: InstanceLoad, now: float) -> float:
    """B of an instance now."""
    return cost.backlog_ms(load.ms_per_token, load.pending_tokens, now - load.progress_at)


def teaches(request: SchedulingRequest, instance: ExecutionInstance) -> bool:
    """Whether the request shows the pace of the instance's prompts. Tokenizing, or embedding on an LLM, does not."""
    kind = request.request_type
    return request.prompt_tokens > 0 and (kind.is_llm or not instance.instance_type.serves_llm)


def in_one_piece(request: SchedulingRequest) -> bool:
    """Whether the answer is generated text in one piece: then its first byte comes with the last."""
    return not request.streams and request.request_type.is_llm


def has_slot(instance: ExecutionInstance, placed: int = 0) -> bool:
    """Whether one more request is within the instance's limit, beside those in flight and ``placed`` more."""
    limit = instance.max_concurrent_requests
    return not limit or instance.active_requests + placed < limit


def is_open(instance: ExecutionInstance, need: int) -> bool:
    """Whether ``need`` more uncached tokens may go to the instance now; one with none pending is always open.

    Beyond the window they would wait in the engine, where they cannot be ordered, moved or cancelled.
    """
    load, limit = instance.load, instance.max_concurrent_requests
    pending = load.pending_tokens
    if pending and pending + need > load.window_tokens:
        return False
    return (
        not limit or instance.active_requests < limit
    )  # ``has_slot``, without its call: every decision asks
