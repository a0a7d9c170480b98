"""A gateway that dies, and a standby that goes on before the same engines with an empty memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.submission import Waiting
from sage_inference.replay.fleet import ModelledFleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.llm_engine import LLMEngine
from sage_inference.replay.run import Replayed, Run
from tests.bench.many.gateways import POLICY, seen_anew

LOST = "gateway died"


class Pair(Run):
    """A gateway, and from its death on the standby.

    Requests under way at the death are ``lost``. Their callers send them again at once: these are ``repeated``.
    Requests that come while nobody listens wait at their callers until the standby does.
    """

    def __init__(self, fleet: ModelledFleet) -> None:
        super().__init__(policy_named(POLICY, fleet.clock), fleet)
        self.lost: list[Outcome] = []
        self.repeated: list[Outcome] = []
        self._fleet = fleet
        self._under_way: dict[int, Replayed] = {}  # by the identity of their outcomes
        self._listens_from = 0.0

    def dies(self, silent_ms: float) -> None:
        """The standby listens after ``silent_ms``."""
        self._listens_from = self.events.now + silent_ms
        under_way = list(self._under_way.values())
        self._under_way.clear()
        for request in under_way:
            self._cut(request)
        anew = seen_anew(self._fleet)
        self.scheduler = self.scheduler_of(policy_named(POLICY, anew.clock), anew)
        self.events.at(self._listens_from, lambda: self._repeat([request.outcome for request in under_way]))

    def submit(self, job: Job, place: int = -1) -> None:
        if self.events.now < self._listens_from:
            self.events.at(self._listens_from, lambda: self.submit(job, place))
        else:
            super().submit(job, place)

    def place(self, submission: Replayed, how: Callable[[Replayed], None]) -> None:
        self._under_way[id(submission.outcome)] = submission
        super().place(submission, how)

    def over(self, outcome: Outcome) -> None:
        self._under_way.pop(id(outcome), None)
        super().over(outcome)

    def _cut(self, request: Replayed) -> None:
        """Its connection ends: an engine that works on it stops, and its caller has nothing."""
        request.outcome.refused = LOST
        self.lost.append(request.outcome)
        if not isinstance(request.place, Waiting) and request.sequence is not None:
            engine = self.engines[request.outcome.instance or ""]
            assert isinstance(engine, LLMEngine)
            engine.abort(request.sequence)

    def _repeat(self, lost: Sequence[Outcome]) -> None:
        for outcome in lost:
            self.submit(replace(outcome.job, at_ms=self.events.now))
            self.repeated.append(self.outcomes[-1])


def play_takeover(
    jobs: Sequence[Job], fleet: ModelledFleet, at_ms: float | None, silent_ms: float = 0.0
) -> Pair:
    """The workload before one gateway, which dies at ``at_ms``, or never."""
    pair = Pair(fleet)
    if at_ms is not None:
        fleet.events.at(at_ms, lambda: pair.dies(silent_ms))
    pair.play(jobs)
    return pair
