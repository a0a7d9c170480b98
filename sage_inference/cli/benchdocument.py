"""A benchmark's report for a script."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sage_inference.bench.plan import Closed, Open, Plan, Replay
from sage_inference.bench.report import Figures, Own, Report
from sage_inference.bench.samples import LatencySummary
from sage_inference.bench.waits import WaitFigures


def document(plan: Plan, report: Report, *, simulated: bool | None) -> dict[str, Any]:
    """The report as JSON. While ``schema`` is 1, fields are only added. null: not measured or not applicable."""
    return {
        "schema": 1,
        "url": report.url,
        "models": {kind.value: name for kind, name in report.models.items()},
        "simulated": simulated,
        "load": _load(plan),
        "slo": {f"{name}_ms": limit for name, limit in asdict(plan.slo).items()} if plan.slo else None,
        "measured_s": round(report.seconds, 6),
        "interrupted": report.interrupted,
        "total": _figures(report.total),
        "kinds": {kind.value: _figures(one) for kind, one in report.kinds.items()},
        "generator": _own(report.own),
        "warnings": list(report.warnings),
    }


def _load(plan: Plan) -> dict[str, Any]:
    load = plan.load
    return {
        "mode": {Closed: "closed", Open: "open", Replay: "trace"}[type(load)],
        "concurrency": load.concurrency if isinstance(load, Closed) else None,
        "rate_per_s": load.rate if isinstance(load, Open) else None,
        "speedup": load.speedup if isinstance(load, Replay) else None,
        "duration_s": plan.duration_s,
        "requests": plan.requests,
        "warmup_s": plan.warmup_s,
        "seed": plan.shape.seed,
    }


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "sent": figures.sent,
        "ok": figures.ok,
        "failed": figures.failed,
        "abandoned": figures.abandoned,
        "errors": [
            {"kind": kind, "count": one.count, "example": one.example} for kind, one in figures.errors.items()
        ],
        "requests_per_s": round(figures.requests_per_s, 3),
        "prompt_tokens_per_s": round(figures.prompt_tokens_per_s, 3),
        "output_tokens_per_s": round(figures.output_tokens_per_s, 3),
        "chunks_per_s": round(figures.chunks_per_s, 3),
        "ttft_ms": _summary(figures.ttft),
        "tpot_ms": _summary(figures.tpot),
        "inter_chunk_ms": _summary(figures.inter_chunk),
        "e2e_ms": _summary(figures.e2e),
        "waiting": _waiting(figures.waiting),
        "good": figures.good,
        "good_share": figures.good_share,
        "goodput_per_s": None if figures.good_per_s is None else round(figures.good_per_s, 3),
    }


def _waiting(found: WaitFigures) -> dict[str, Any]:
    return {
        "requests": found.requests,
        "due_in_warmup": found.due_in_warmup,
        "median_ms": _ms(found.median_s),
        "longest_ms": _ms(found.longest_s),
        "over_3x_median": found.long,
        "over_3x_median_share": found.long_share,
        "callers_over_3x_median": None if found.long_at_a_time is None else round(found.long_at_a_time, 3),
        "starving": found.starving,
        "throughout": found.throughout,
        "unanswered": found.unanswered,
    }


def _own(own: Own) -> dict[str, Any]:
    ceiling = own.ceiling
    return {
        "cpu_share": round(own.cpu, 3),
        "loop_lag_ms": _summary(own.lag),
        "late_ms": _summary(own.late),
        "waited": own.waited,
        "connections": own.connections,
        "ceiling": ceiling
        and {
            "concurrency": ceiling.concurrency,
            "requests_per_s": round(ceiling.requests_per_s, 3),
            "chunks_per_s": round(ceiling.chunks_per_s, 3),
            "cpu_share": round(ceiling.cpu, 3),
        },
        "bottleneck": bool(own.reasons),
        "reasons": list(own.reasons),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 4)


def _summary(found: LatencySummary | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {name: round(value, 4) for name, value in asdict(found).items()}
