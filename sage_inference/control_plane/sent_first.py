"""Requests that are sent before they are measured: with one instance nothing is decided by the prompt.

Their measure and their records wait until the engine is at work. Until then they are a bound on load, see ``fits``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sage_inference.control_plane.accounting.ledger import Ledger
from sage_inference.control_plane.accounting.prompt_share import HARMED
from sage_inference.control_plane.placer import Placer
from sage_inference.control_plane.queue.request_queue import RequestQueue
from sage_inference.control_plane.selector import ONLY, Selector
from sage_inference.control_plane.setup import Hooks
from sage_inference.control_plane.slo_table import SloTable
from sage_inference.control_plane.submission import Group, Submission
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest

Sent = tuple[Submission, SchedulingDecision, Group, float, Callable[[], None]]


class SentFirst:
    """The ledger of requests that were sent and not counted yet. ``sent`` is empty most of the time."""

    def __init__(
        self,
        selector: Selector,
        queue: RequestQueue,
        placer: Placer,
        ledger: Ledger,
        slos: SloTable,
        hooks: Hooks,
    ) -> None:
        self.sent: deque[Sent] = deque()
        self._most_tokens = 0  # an upper bound on the tokens of their prompts
        self._selector = selector
        self._queue = queue
        self._placer = placer
        self._ledger = ledger
        self._slos = slos
        self._hooks = hooks

    def fits(self, request: SchedulingRequest, only: ExecutionInstance) -> bool:
        """Whether the request goes to its only instance at once, even if each byte of its prompt is a token.

        Tokens count instead of bytes where they are known already.
        """
        most = request.prompt_tokens or request.prompt_bytes
        load, limit = only.load, only.max_concurrent_requests
        if load.pending_tokens + self._most_tokens + most > load.window_tokens:
            # The prompts that were sent have fewer tokens than bytes: count them before the request is turned away.
            self.settle()
            if load.pending_tokens + most > load.window_tokens:
                return False
        # Without a call for LLM work, which heeds no streams.
        heeds_streams = not request.request_type.is_llm and self._selector.heeds_streams(request)
        if heeds_streams:
            self.settle()  # LLM work on the same GPU may be among the requests sent first
        prompt_ms, slos = most * load.ms_per_token, self._slos
        return (
            (prompt_ms <= slos.short_ms or (prompt_ms <= slos.soon_ms and load.prompt_share >= HARMED))
            and not (limit and only.active_requests + len(self.sent) >= limit)
            and not self._queue.requests
            and request.slo_deadline_ms is None
            and not (heeds_streams and not self._selector.is_free(request, only))
        )

    def send(self, submission: Submission, group: Group, now: float, measure: Callable[[], None]) -> None:
        request, only = submission.request, group[0]
        decision = SchedulingDecision(request.request_id, only.instance_id, ONLY)
        submission.placed(only, decision)
        sent = self.sent
        is_first = not sent
        sent.append((submission, decision, group, now, measure))
        self._most_tokens += request.prompt_tokens or request.prompt_bytes
        if is_first:
            self._hooks.later(self.settle)

    def settle(self) -> None:
        """Measure, count and record what was sent. Nothing may be decided, or shown, before that."""
        sent = self.sent
        if not sent:
            return
        now = 0.0
        selector, placer = self._selector, self._placer
        while sent:
            submission, decision, group, now, measure = sent.popleft()
            try:
                measure()
                request, only = submission.request, group[0]
                if self._slos.differ:
                    self._slos.give(request)
                # Without a call for a short prompt, which has no blocks that an instance could have cached.
                need = selector.look_up(request, only) if request.prompt_blocks else request.prompt_tokens
                placer.record(placer.count(submission, decision, only, need, group, now), need, now)
            except Exception as error:
                self._hooks.report(error)
        self._most_tokens = 0
        self._ledger.silent_prefills.catch_up(now)
