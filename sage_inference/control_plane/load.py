"""The load a request puts on an instance from its dispatch to its end, and what its first byte teaches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sage_inference.types import ExecutionInstance, InstanceLoad

if TYPE_CHECKING:
    from sage_inference.control_plane.sharing import SharedGPU

_KEPT = 0.98  # of the past, at each first byte
DECODE_TOKENS = 267  # a running request weighs as much as so many uncached prompt tokens


class Placement:
    """One attempt of a request on an instance; ``pending`` while its prompt counts as not yet begun.

    ``answered_at`` is when its first byte came; ``record`` belongs to whoever watches.
    """

    __slots__ = (
        "answered_at",
        "expected_at",
        "instance",
        "pending",
        "pushed_at",
        "record",
        "shared",
        "tokens",
    )

    def __init__(self, instance: ExecutionInstance, tokens: int, now: float) -> None:
        self.instance = instance
        self.tokens = tokens
        self.pushed_at = now
        self.pending = True
        self.shared: SharedGPU | None = None  # with work of the other kind
        self.answered_at: float | None = None
        self.record: Any = None
        load = instance.load
        if not load.pending_tokens:
            load.progress_at = now
        load.pending_tokens += tokens
        instance.active_requests += 1
        self.expected_at = math.inf

    def expect(self, now: float) -> float:
        """When its prompt will likely be done: for answers whose first byte does not tell."""
        self.expected_at = now + backlog_ms(self.instance.load, now) / 1000
        return self.expected_at

    def begun(self, now: float, teaches: bool = True) -> None:
        """Its first byte came: the instance got on, and showed how fast it is.

        M ← 0.98·M + dt and U ← 0.98·U + u for u tokens in the dt ms since the byte before or its own push;
        the pace is M / U.
        """
        if self.pending:
            load = self.instance.load
            if teaches:
                learn(load, self.tokens, (now - max(load.progress_at, self.pushed_at)) * 1000)
            self._no_longer_pending(now)

    def resize(self, tokens: int) -> None:
        """It was not known how many tokens would go, and now it is."""
        if self.pending:
            self.instance.load.pending_tokens += tokens - self.tokens
        self.tokens = tokens

    def presumed_begun(self) -> None:
        """Its prompt should be done by now, though nothing tells."""
        if self.pending:
            self._no_longer_pending(max(self.instance.load.progress_at, self.expected_at))

    def ended(self) -> None:
        """The attempt is over: slot and pending tokens go back."""
        self.instance.active_requests -= 1
        if self.pending:
            self._no_longer_pending(self.instance.load.progress_at)

    def _no_longer_pending(self, progress_at: float) -> None:
        self.pending = False
        load = self.instance.load
        load.pending_tokens -= self.tokens
        load.progress_at = progress_at


def learn(load: InstanceLoad, tokens: int, took_ms: float) -> None:
    load.busy_ms = _KEPT * load.busy_ms + took_ms
    load.busy_tokens = _KEPT * load.busy_tokens + tokens
    load.ms_per_token = load.busy_ms / load.busy_tokens


def backlog_ms(load: InstanceLoad, now: float) -> float:
    """B = max(0, k·Q − (now − mark)): how long the instance likely takes for the prompts it has."""
    left = load.ms_per_token * load.pending_tokens - (now - load.progress_at) * 1000
    return left if left > 0.0 else 0.0


def is_open(instance: ExecutionInstance, need: int) -> bool:
    """Whether ``need`` more uncached tokens may go to it now; an instance with none pending always is.

    Beyond the window they would wait in the engine, where they can't be ordered, moved or cancelled.
    """
    load, limit = instance.load, instance.max_concurrent_requests
    pending = load.pending_tokens
    if pending and pending + need > load.window_tokens:
        return False
    return not limit or instance.active_requests < limit
