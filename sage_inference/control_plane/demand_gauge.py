"""Reads the demand for a model off the scheduler's own counts, once a second."""

from __future__ import annotations

from collections.abc import Iterable

from sage_inference.control_plane.demand import Demand
from sage_inference.control_plane.instances.load import backlog_ms
from sage_inference.control_plane.slo import ttft_s
from sage_inference.control_plane.submission import Waiting
from sage_inference.types import ExecutionInstance

# Of an instance's time, the share that its streams bear for prompts. It begins at 0.6 and falls while streams lose their
# SLO.
STRAINED = 0.55


class DemandGauge:
    """The work that came for one model since the reading before.

    Instances count the prompt tokens that they have begun, and show their pace. The work that came was begun since, or is
    in what the backlog has grown by.
    """

    def __init__(self) -> None:
        self._begun: dict[ExecutionInstance, int] = {}
        self._backlog_s = 0.0
        self._read_at: float | None = None

    def read(
        self,
        now: float,
        instances: Iterable[ExecutionInstance],
        waiting: Iterable[Waiting],
        unserved: int = 0,
    ) -> Demand:
        """``instances`` are those that serve the model now, ``waiting`` the requests that wait for it."""
        serving = list(instances)
        begun_s = self._begun_since(serving)
        in_engines_s = sum(max(0.0, backlog_ms(i.load, now)) for i in serving) / 1000
        queue = [(each.prompt_ms / 1000, ttft_s(each.request)) for each in waiting]
        backlog_s = in_engines_s + sum(work_s for work_s, _ in queue)
        passed = 0.0 if self._read_at is None else now - self._read_at
        work = max(0.0, begun_s + backlog_s - self._backlog_s) / passed if passed > 0.0 else 0.0
        self._read_at, self._backlog_s = now, backlog_s
        replicas = len(serving)
        late = sum(work_s / slo_s for work_s, slo_s in queue if slo_s > 0.0) / max(1, replicas)
        asked = bool(queue or begun_s or unserved or any(i.active_requests for i in serving))
        strained = sum(i.load.prompt_share for i in serving) < STRAINED * replicas
        return Demand(replicas, work, backlog_s, late, strained, asked, unserved)

    def _begun_since(self, serving: list[ExecutionInstance]) -> float:
        """Replica-seconds of the prompts that were begun since the reading before."""
        before, self._begun = self._begun, {i: i.load.begun_tokens for i in serving}
        return (
            sum((begun - before.get(i, 0)) * i.load.ms_per_token for i, begun in self._begun.items()) / 1000
        )
