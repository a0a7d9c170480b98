"""The records of attempts. No request waits for them, and later decisions follow them."""

from __future__ import annotations

from collections.abc import Callable

from sage_inference.control_plane.accounting import prompt_share
from sage_inference.control_plane.accounting.estimates import TokenEstimates
from sage_inference.control_plane.accounting.rates import Rates
from sage_inference.control_plane.accounting.relative_pace import RelativePaces
from sage_inference.control_plane.accounting.silent_prefills import SilentPrefills
from sage_inference.control_plane.accounting.tenants import OUTPUT_WEIGHT, TenantCounters
from sage_inference.control_plane.instances.load import Placement
from sage_inference.types import Usage


class Ledger:
    """Rates of work, the tokens of tenants, learned paces, and the prompts that should be done by now."""

    def __init__(self) -> None:
        self.rates = Rates()
        self.estimates = TokenEstimates()
        self.tenants = TenantCounters()
        self.silent_prefills = SilentPrefills()
        self.relative = RelativePaces()
        self.reads_all_usage = False
        self.renewed: Callable[[], None] = _nobody  # called when paces were renewed

    def placed(self, placement: Placement, need: int, now: float) -> None:
        """``need`` are the prompt tokens that the instance has not cached."""
        request, rates = placement.request, self.rates
        rates.prompt_tokens += request.prompt_tokens
        rates.uncached_tokens += need
        self.tenants.charge(request.tenant, placement.tokens)
        if request.request_type.is_llm and not request.streams:
            # The first byte of its answer comes with the last, so it does not show the end of the prefill.
            self.silent_prefills.add(placement, now)
            load = placement.instance.load
            load.read_in -= 1
            if load.read_in <= 0:
                self.relative.note(placement)
        if now >= self.relative.due_at and self.relative.renew(now):
            self.renewed()

    def wants_usage(self, placement: object) -> bool:
        """Whether the answer of an attempt is searched for its usage.

        Tenants need every answer. Estimates, and the paces of answers in one piece, need one now and then.
        """
        estimates = self.estimates
        estimates.pass_over -= 1
        return (
            estimates.pass_over < 0
            or self.tenants.several
            or self.reads_all_usage
            or (type(placement) is Placement and placement.beside >= 0)
        )

    def used(self, placement: Placement, usage: Usage) -> None:
        """An engine reported the tokens of an attempt."""
        placement.usage = usage
        request = placement.request
        self.tenants.charge(request.tenant, OUTPUT_WEIGHT * usage.completion_tokens)
        if usage.prompt_tokens:  # those of a stream that reports no usage are not known
            self.estimates.learn(request.model, request.script, request.prompt_bytes, usage.prompt_tokens)
        if placement.beside >= 0:
            self.relative.learn(placement, usage.completion_tokens)
        elif request.streams and request.request_type.is_llm:
            prompt_share.learn(placement, usage.completion_tokens)


def _nobody() -> None: ...
