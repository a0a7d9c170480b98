"""Sends jobs through the gateway's own scheduler to modelled engines, on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.policies.base import PlacementPolicy
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.control_plane.setup import Hooks, SchedulerSettings
from sage_inference.replay.fleet import CHAT, EMBEDDING_MODEL, EMBEDDINGS, LLM_MODEL, ModelledFleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.llm_engine import LLMEngine, ModelledSequence
from sage_inference.replay.slo import ReplaySlo
from sage_inference.requests.rejection import Rejection
from sage_inference.types import ExecutionInstance, RequestType, SchedulingDecision, SchedulingRequest, Usage

QUEUE_MS = 120_000.0  # the gateway's default
TOO_LONG = "too_long"  # refusal of a job that fits no engine's context
UNBOUNDED = LimitSettings(queue_requests=1 << 30, queue_bytes=1 << 50)


class Replayed:
    """A job under way: the scheduler's submission, and the engine's listener."""

    def __init__(self, run: Run, request: SchedulingRequest, outcome: Outcome) -> None:
        self.run = run
        self.request = request
        self.outcome = outcome
        self.size = outcome.job.prompt * 4
        self.tried: tuple[ExecutionInstance, ...] = ()
        self.place: Any = None
        self.sequence: ModelledSequence | None = None  # in an LLM engine
        self.on_gap: Callable[[float, float], None] | None = None

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        outcome = self.outcome
        job = outcome.job
        outcome.instance = instance.instance_id
        outcome.placed_ms = self.run.events.now
        self.on_gap = self.run.scheduler.gap_listener(self) if self.request.streams else None
        engine = self.run.engines[instance.instance_id]
        if isinstance(engine, LLMEngine):
            if job.prompt + job.output > engine.limits.longest:
                self.run.events.at(self.run.events.now, lambda: self._too_long(instance))
                return
            self.sequence = ModelledSequence(job.prompt, job.output, job.blocks, self)
            engine.submit(self.sequence)
        else:
            engine.submit(job.prompt, self)

    def refused(self, refusal: Rejection) -> None:
        self.outcome.refused = refusal.reason.name.lower()
        self.run.over(self.outcome)

    def _too_long(self, instance: ExecutionInstance) -> None:
        """Handle an engine's refusal before any work. As in the gateway, a larger engine gets the job if there is one."""
        scheduler = self.run.scheduler
        self.tried += (too_small := scheduler.no_larger(self, instance))
        scheduler.release(self, outcome="retried" if too_small else "failed", status=400)
        if too_small:
            self.outcome.placed_ms = None
            self.run.place(self, scheduler.go_on)
        else:
            self.outcome.refused = TOO_LONG
            self.run.over(self.outcome)

    def first_token(self, cached: int) -> None:
        self.outcome.first_ms = self.run.events.now
        self.outcome.cached = cached
        if self.request.streams:
            self.run.scheduler.first_byte(self)

    def streamed(self, gap_ms: float) -> None:
        if self.on_gap is not None:
            self.on_gap(gap_ms / 1000, self.run.events.now / 1000)

    def finished(self) -> None:
        outcome = self.outcome
        outcome.end_ms = self.run.events.now
        if outcome.first_ms is None:
            self.first_token(0)
        if not self.request.streams:
            self.run.scheduler.first_byte(self)
        self.run.scheduler.release(self, self._usage())
        self.run.over(outcome)

    def _usage(self) -> Usage | None:
        """The usage that the engine reports. The gateway does not always look for it in an answer in one piece."""
        job = self.outcome.job
        if self.request.streams or self.run.scheduler.ledger.wants_usage(self.place):
            return Usage(job.prompt, job.output, self.outcome.cached)
        return None


class Run:
    """One policy with one fleet. ``ended`` gets each job's outcome and may submit others. The policy aims at ``slo``."""

    def __init__(
        self,
        policy: PlacementPolicy,
        fleet: ModelledFleet,
        ended: Callable[[Outcome], None] = lambda outcome: None,
        slo: ReplaySlo | None = None,
    ) -> None:
        self.events = fleet.events
        self.engines = fleet.engines
        self.block_tokens = fleet.block_tokens
        self.ended = ended
        self.outcomes: list[Outcome] = []
        self._followers: dict[int, list[tuple[int, Job]]] = {}  # by the place of the job that they follow
        self._slo = slo or ReplaySlo()
        self.scheduler = self.scheduler_of(policy, fleet)

    def scheduler_of(self, policy: PlacementPolicy, fleet: ModelledFleet) -> Scheduler:
        """A scheduler that knows the fleet's instances, and nothing of what they did."""
        registry = Registry(self._slo.aliases)
        for instance in fleet.instances:
            registry.add(instance)
        hooks = Hooks(alarm=fleet.alarm(lambda: self.scheduler.dispatch()))
        settings = SchedulerSettings(UNBOUNDED, self._slo.settings, fleet.llm_share)
        return Scheduler(registry, policy, settings, fleet.clock, hooks)

    def submit(self, job: Job, place: int = -1) -> None:
        """Submit a job now. ``job.at_ms`` is ignored. ``place`` is its place in the workload."""
        outcome = Outcome(job, place=place)
        self.outcomes.append(outcome)
        self.place(Replayed(self, self._request(job), outcome), self.scheduler.submit)

    def place(self, submission: Replayed, how: Callable[[Replayed], None]) -> None:
        """Let the scheduler place a job now or later. A job that waits too long is refused."""
        try:
            how(submission)
        except Rejection as refusal:
            submission.refused(refusal)
            return
        if submission.outcome.placed_ms is None:
            self.events.at(self.events.now + QUEUE_MS, lambda: self._give_up(submission))

    def _request(self, job: Job) -> SchedulingRequest:
        encodes = job.request_type is RequestType.EMBEDDING
        return SchedulingRequest(
            str(len(self.outcomes)),
            job.request_type,
            EMBEDDING_MODEL if encodes else job.model or LLM_MODEL,
            EMBEDDINGS if encodes else CHAT,
            job.priority,
            job.tenant,
            job.prompt,
            job.deadline_ms,
            arrived=self.events.now / 1000,
            streams=job.streams and not encodes,
            prompt_bytes=4 * job.prompt,
            prompt_blocks=job.blocks,
            block_tokens=self.block_tokens,
        )

    def play(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Submit every job at its time, or after the one that it follows, and run until all have ended.

        Returns the outcomes in order of submission.
        """
        self.expect(jobs)
        while self.events.step():
            pass
        return self.outcomes

    def expect(self, jobs: Sequence[Job]) -> None:
        """Let every job come at its time, or after the one that it follows, once the events run."""
        for place, job in enumerate(jobs):
            if job.follows is None:
                self._submit_at(job.at_ms, job, place)
            else:
                self._followers.setdefault(job.follows, []).append((place, job))

    def over(self, outcome: Outcome) -> None:
        """A job has ended or was refused: the jobs that follow it come after their time to think."""
        self.ended(outcome)
        for place, job in self._followers.pop(outcome.place, ()):
            at_ms = self.events.now + job.think_ms
            self._submit_at(at_ms, replace(job, at_ms=at_ms), place)

    def _submit_at(self, at_ms: float, job: Job, place: int) -> None:
        self.events.at(at_ms, lambda: self.submit(job, place))

    def _give_up(self, submission: Replayed) -> None:
        if submission.outcome.placed_ms is None and submission.outcome.refused is None:
            self.scheduler.withdraw(submission)
            submission.outcome.refused = "queue_timeout"
            self.over(submission.outcome)
