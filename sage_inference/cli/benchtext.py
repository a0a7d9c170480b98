"""A benchmark's report for a person."""

from __future__ import annotations

from dataclasses import asdict

from sage_inference.bench.plan import Closed, Open, Plan
from sage_inference.bench.report import Ceiling, Figures, Own, Report
from sage_inference.bench.samples import LatencySummary
from sage_inference.bench.slo import SloLimits
from sage_inference.bench.waits import WaitFigures
from sage_inference.cli import terminal

_LABEL = 12
_COLUMNS = ("p50", "p90", "p99", "p99.9", "max", "mean")
_BUSY_CEILING = 0.9  # of a core: with less, the generator was not the limit


def show(plan: Plan, report: Report, *, simulated: bool) -> None:
    cut = ", broken off" if report.interrupted else ""
    terminal.say(f"{report.url}: {_what(plan)}, {report.seconds:.1f} s measured{cut}")
    if simulated:
        terminal.say("engines are simulated: their speed is no real engine's", style="yellow")
    if len(report.kinds) > 1:
        for kind, figures in report.kinds.items():
            _section(f"{kind} ({report.models[kind]})", figures, plan.slo)
        _section("all", report.total, plan.slo)
    else:
        [(kind, figures)] = report.kinds.items()
        _section(f"{kind} ({report.models[kind]})", figures, plan.slo)
    terminal.say("")
    for warning in report.warnings:
        _row("warning", warning, "yellow")
    _own(report.own)


def _what(plan: Plan) -> str:
    load = plan.load
    if isinstance(load, Closed):
        return f"{load.concurrency:,} requests at a time"
    if isinstance(load, Open):
        return f"{load.rate:g} requests/s, Poisson"
    return f"a trace of {len(load.rows):,} requests, {load.speedup:g} times as fast"


def _section(title: str, figures: Figures, slo: SloLimits) -> None:
    terminal.say("")
    terminal.say(title)
    left = f", {figures.abandoned:,} broken off" if figures.abandoned else ""
    _row("requests", f"{figures.sent:,} sent, {figures.ok:,} ok, {figures.failed:,} failed{left}")
    _row("throughput", ", ".join(_rates(figures)))
    if figures.good_per_s is not None and figures.good_share is not None:
        limits = ", ".join(f"{name} {limit:g} ms" for name, limit in asdict(slo).items() if limit is not None)
        _row("goodput", f"{figures.good_per_s:,.1f} requests/s, {figures.good_share:.1%} within {limits}")
    latencies = {
        "ttft": figures.ttft,
        "tpot": figures.tpot,
        "inter-chunk": figures.inter_chunk,
        "end to end": figures.e2e,
    }
    if figures.e2e:
        _row("ms", "".join(f"{name:>11}" for name in _COLUMNS))
    for name, found in latencies.items():
        if found:
            _row(name, "".join(f"{_ms(value):>11}" for value in _values(found)))
    if figures.waiting.longest_s is not None:
        _row("waits", _waits(figures.waiting, figures.waiting.longest_s))
    for kind, failures in figures.errors.items():
        example = f": {failures.example}" if failures.example else ""
        _row("error", f"{failures.count:,} {kind}{example}", "red")


def _rates(figures: Figures) -> list[str]:
    parts = [f"{figures.requests_per_s:,.1f} requests/s"]
    for value, unit in (
        (figures.prompt_tokens_per_s, "prompt tokens/s"),
        (figures.output_tokens_per_s, "output tokens/s"),
        (figures.chunks_per_s, "chunks/s"),
    ):
        if value:
            parts.append(f"{value:,.0f} {unit}")
    return parts


def _waits(found: WaitFigures, longest_s: float) -> str:
    parts = [f"longest {_ms(longest_s * 1000)} ms"]
    if found.median_s is not None:
        parts.append(f"median {_ms(found.median_s * 1000)} ms")
    if found.long_share is not None:
        callers = "" if found.long_at_a_time is None else f" ({found.long_at_a_time:.1f} callers at a time)"
        parts.append(f"{found.long_share:.1%} over 3 x the median{callers}")
    if found.throughout:
        parts.append(f"{found.throughout:,} callers during the whole load")
    return ", ".join(parts)


def _own(own: Own) -> None:
    late = f", requests left {_ms(own.late.p99)} ms late at p99" if own.late else ""
    _row("generator", f"{own.cpu:.0%} of a core, {own.connections:,} connections opened{late}")
    if own.ceiling:
        _row("its ceiling", _ceiling(own.ceiling))
    if own.reasons:
        _row("doubt", f"the generator was a bottleneck: {'; '.join(own.reasons)}", "yellow")


def _ceiling(ceiling: Ceiling) -> str:
    least = "" if ceiling.cpu >= _BUSY_CEILING else "at least "
    chunks = f", {ceiling.chunks_per_s:,.0f} chunks/s" if ceiling.chunks_per_s else ""
    return (
        f"{least}{ceiling.requests_per_s:,.0f} requests/s{chunks}, {ceiling.concurrency} at a time, "
        f"with {ceiling.cpu:.0%} of a core"
    )


def _row(label: str, text: str, style: str | None = None) -> None:
    terminal.say(f"  {label:<{_LABEL}}{text}", style=style)


def _values(found: LatencySummary) -> tuple[float, ...]:
    return found.p50, found.p90, found.p99, found.p999, found.max, found.mean


def _ms(value: float) -> str:
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
