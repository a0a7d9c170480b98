"""The SLOs of the gateway's configuration, which a replayed request must meet to count as good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sage_inference.config.settings import PRIORITIES, ModelSloSettings, SloSettings
from sage_inference.control_plane.slo_table import Row, row
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.types import RequestPriority


@dataclass(frozen=True, slots=True)
class Judged:
    """Two times, and the requests that are judged by them: those of these models, at these priorities.

    Empty ``models`` or ``priorities`` stand for all that the workload has.
    """

    ttft_ms: float
    tpot_ms: float
    models: tuple[str, ...] = ()
    priorities: tuple[RequestPriority, ...] = ()


class ReplaySlo:
    """``aliases`` maps names in ``settings`` to models. A job's own deadline replaces the time to its first token.

    Values that are not set get the usual defaults, because the modelled engines are usual ones.
    """

    def __init__(self, settings: SloSettings | None = None, aliases: Mapping[str, str] | None = None) -> None:
        self.settings = settings or SloSettings()
        self.aliases = dict(aliases or {})
        self._rows: dict[str, Row] = {}

    def kept(self, outcome: Outcome) -> bool:
        ttft, tpot, job = outcome.ttft_ms, outcome.tpot_ms, outcome.job
        if outcome.end_ms is None or ttft is None:
            return False
        slo = self.row(job.model)[job.priority]
        return ttft <= (slo.ttft_ms if job.deadline_ms is None else job.deadline_ms) and (
            tpot is None or tpot <= slo.tpot_ms
        )

    def row(self, model: str) -> Row:
        """The model's SLO by priority."""
        found = self._rows.get(model)
        if found is None:
            found = self._rows[model] = row(self.settings, self._own(model))
        return found

    def document(self, jobs: Iterable[Job]) -> dict[str, Any]:
        """The SLO for a script: times of normal requests, time to first token of background ones, models that differ."""
        general = _times(self.row(""))
        models = {model: _times(self.row(model)) for model in dict.fromkeys(job.model for job in jobs)}
        own = [{"model": model, **times} for model, times in models.items() if times != general]
        return {**general, "models": own}

    def judged(self, jobs: Sequence[Job]) -> list[Judged]:
        """Every SLO that the jobs are judged by, their own deadlines left out."""
        priorities = sorted({job.priority for job in jobs})
        alike: dict[tuple[tuple[float, float], ...], list[str]] = {}
        for model in dict.fromkeys(job.model for job in jobs):
            slos = self.row(model)
            key = tuple((slos[priority].ttft_ms, slos[priority].tpot_ms) for priority in priorities)
            alike.setdefault(key, []).append(model)
        found = []
        for key, models in alike.items():
            named = tuple(models) if len(alike) > 1 else ()
            for times in dict.fromkeys(key):
                those = tuple(p for p, own in zip(priorities, key, strict=True) if own == times)
                found.append(Judged(*times, named, those if len(those) < len(priorities) else ()))
        return found

    def _own(self, model: str) -> tuple[str, ModelSloSettings] | None:
        stated = self.settings.models
        if model in stated:
            return model, stated[model]
        meant = [name for name in stated if self.aliases.get(name) == model]
        return (meant[-1], stated[meant[-1]]) if meant else None  # as in the gateway, the last one applies


def _times(found: Row) -> dict[str, float]:
    normal, batch = found[RequestPriority.NORMAL], found[RequestPriority.BACKGROUND]
    return {"ttft_ms": normal.ttft_ms, "tpot_ms": normal.tpot_ms, "batch_ttft_ms": batch.ttft_ms}


def for_all(settings: SloSettings, key: str, value: float) -> SloSettings:
    """The settings with ``value`` for ``key``, and no own value of any priority or model."""
    models = {name: _without(own, key) for name, own in settings.models.items()}
    found: SloSettings = replace(_without(settings, key), models=models, **{key: value})
    return found


def _without(settings: Any, key: str) -> Any:
    priorities = {name: replace(getattr(settings, name), **{key: None}) for name in PRIORITIES}
    return replace(settings, **priorities, **{key: None})
