"""Puts a request on an instance: counts it as load, sends it, and then records it."""

from __future__ import annotations

from sage_inference.control_plane.accounting.ledger import Ledger
from sage_inference.control_plane.instances.load import Placement, as_seen
from sage_inference.control_plane.selector import Selector
from sage_inference.control_plane.setup import Hooks
from sage_inference.control_plane.submission import Group, Submission
from sage_inference.types import ExecutionInstance, SchedulingDecision


class Placer:
    """The order is part of the contract: load first, because sending may call back; records last.

    A request that is sent while it is no load yet would let the next decision choose the same instance. Records come
    last because no request waits for them.
    """

    def __init__(self, selector: Selector, ledger: Ledger, hooks: Hooks) -> None:
        self._selector = selector
        self._ledger = ledger
        self._hooks = hooks

    def put(
        self,
        submission: Submission,
        decision: SchedulingDecision,
        instance: ExecutionInstance,
        need: int,
        group: Group,
        now: float,
        overdue: bool = False,
    ) -> None:
        """Send the request to ``instance``; ``need`` are the prompt tokens that it has not cached."""
        placement = self.count(submission, decision, instance, need, group, now)
        if overdue:
            placement.count_as_overdue()
        submission.placed(instance, decision)
        try:
            self.record(placement, need, now)
        except Exception as error:
            # The request is on its way: an error in the records must not look like an error of the request.
            self._hooks.report(error)

    def count(
        self,
        submission: Submission,
        decision: SchedulingDecision,
        instance: ExecutionInstance,
        need: int,
        group: Group,
        now: float,
    ) -> Placement:
        """From here on the request is load of the instance."""
        request, gpus = submission.request, self._selector.shared
        # Before the placement is made: it shows the instances as the decision found them.
        seen = () if self._hooks.placed is None else as_seen(group)
        placement = submission.place = Placement(
            instance, need if need > 0 else 1, now, request, decision, seen
        )
        if gpus and (shared := gpus.get(instance)):
            placement.shared = shared
            shared.began(placement, request.request_type.is_llm)
        return placement

    def record(self, placement: Placement, need: int, now: float) -> None:
        self._ledger.placed(placement, need, now)
        if placement.request.prompt_blocks:
            self._selector.prefixes.add(placement.instance, placement.request)
        if self._hooks.placed is not None:
            self._hooks.placed(placement)
