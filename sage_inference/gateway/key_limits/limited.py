"""Requests of keys that have limits. Other requests never come here: their heads have no budget."""

from __future__ import annotations

from sage_inference.control_plane.accounting.estimates import script_of
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.key_limits.budget import Hold
from sage_inference.gateway.key_limits.headers import is_rate_header, lines_of, rate_headers
from sage_inference.gateway.key_limits.refusals import model_not_allowed, over_limit
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.relay.phase import ENDS, FINAL, Phase
from sage_inference.requests.output_limits import asked_output
from sage_inference.types import Usage
from sage_inference.wire.message import ResponseHead

USUAL_OUTPUT = 1024  # tokens that are reserved for an answer whose length the request does not bound

_DONE = Phase.DONE


def refusal_of(head: RequestHead) -> ApiError | None:
    """The refusal of a request with this head, before its body was read; None if it may go on."""
    budget = head.budget
    exceeded = None if budget is None else budget.exceeded()
    if budget is None or exceeded is None:
        return None
    budget.refused += 1
    return over_limit(budget.name, exceeded)


class LimitedExchange(Exchange):
    """An exchange whose key has limits. Its part of the budget is held from its first phase to its last.

    The limits are checked before the body is parsed, and a request that is over one waits in no queue.
    """

    part: Hold | None = None  # of the budget
    _prompt_tokens = 0  # of its prompt, estimated

    def begin(self, body: bytes) -> None:
        refusal = refusal_of(self.head)
        if refusal is not None:
            self.body_complete = True
            self.size = len(body)
            self.fail(refusal)
            return
        budget = self.head.budget
        assert budget is not None
        self.part = budget.enter()
        super().begin(body)

    def submit(self) -> None:
        """Reserve the tokens that the request may use. Raises ``Rejection``."""
        budget, model = self.head.budget, self.request.model
        assert budget is not None
        if not budget.models.allow(model):
            self.fail(model_not_allowed(budget.name, model, budget.models.patterns))
            return
        if self.part is not None and budget.counts_tokens and not self.part.reserved:
            self._reserve(self.part)
        super().submit()

    def _reserve(self, hold: Hold) -> None:
        request, output = self.request, 0
        ratio = self.gateway.scheduler.estimates.tokens_per_byte(request.model, script_of(self.prompt))
        self._prompt_tokens = max(1, round(request.prompt_bytes * ratio)) if request.prompt_bytes else 0
        if self.route.type.is_llm:
            asked = request.output_tokens or asked_output(self.body, self.gateway.limits)
            output = (asked or USUAL_OUTPUT) * max(1, request.choices)
        # More than a whole minute or day has would keep out others for no reason.
        budget = self.head.budget
        assert budget is not None
        most = budget.limits.tokens_per_minute or budget.limits.tokens_per_day or 0
        hold.reserve(min(self._prompt_tokens + output, most))
        hold.written = self._written

    def _written(self) -> int:
        """The tokens that the request used so far. An engine is assumed to send one token a chunk."""
        return 0 if self.delivery is None else self._prompt_tokens + self.delivery.chunks

    # The end

    def used(self, usage: Usage | None, estimated: tuple[int, int] | None) -> None:
        if self.part is None:
            return
        failed = self.phase is _DONE and self.status >= 400
        if usage is not None:
            tokens = usage.prompt_tokens + usage.completion_tokens
        elif estimated is not None:
            tokens = sum(estimated)
        else:
            tokens = self._prompt_tokens if self._was_sent and not failed else 0
        refused = failed and not self._was_sent and (self.status >= 500 or self.status == 429)
        self.part.end(tokens, refund=refused)

    @property
    def _was_sent(self) -> bool:
        """Whether an engine got the request, or texts of it."""
        return self.attempt is not None or self.upstream is not None or getattr(self, "_sent", False)

    def _account(self, left: Phase, to: Phase, effect: int) -> None:
        try:
            super()._account(left, to, effect)
        finally:
            if effect & ENDS:
                self._let_go_of_budget()

    def broke(self, error: Exception) -> None:
        super().broke(error)
        if FINAL[self.phase]:  # after ``_account``, if that runs at all
            self.gateway.loop_batch.later(self._let_go_of_budget)

    def _let_go_of_budget(self) -> None:
        """Usually done already, by ``used``."""
        if self.part is not None:
            self.part.end(self._prompt_tokens if self._was_sent else 0)

    # The answer

    def _head(self, answer: ResponseHead, length: int | None) -> bytes:
        head = super()._head(answer, length)
        budget = self.head.budget
        if not head or budget is None:
            return head
        if b"-ratelimit-" in head.lower():
            head = b"\r\n".join([line for line in head.split(b"\r\n") if not is_rate_header(line)])
        return head[:-2] + lines_of(rate_headers(budget, self.route.path)) + b"\r\n"


_made: dict[type[Exchange], type[Exchange]] = {Exchange: LimitedExchange}


def limited(base: type[Exchange]) -> type[Exchange]:
    """The type of exchanges like ``base`` whose key has limits."""
    found = _made.get(base)
    if found is None:
        found = _made[base] = type(f"Limited{base.__name__}", (LimitedExchange, base), {})
    return found
