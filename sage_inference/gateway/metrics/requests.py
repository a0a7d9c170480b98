"""Families of ended requests, from the tally: by route, status, model, instance and key."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sage_inference.gateway.gateway import Gateway
from sage_inference.telemetry.exposition import Exposition
from sage_inference.telemetry.tally import Counts, Key
from sage_inference.types import RequestPriority

Totals = Mapping[tuple[str, str, str], Counts]


def expose(gateway: Gateway, page: Exposition) -> None:
    stats = gateway.stats
    # A copy, so that all families show the same moment.
    series = dict(stats.tally.series)
    page.counter(
        "sage_requests_total",
        "Relayed requests that ended; status 0: the caller left first; without an instance: none was asked.",
        [(_labels(key), counts.requests) for key, counts in series.items()],
    )
    totals = _totals(series)
    _sums(
        page,
        totals,
        "sage_tokens_total",
        "Tokens that engines reported; cached ones are among the prompt's.",
        _REPORTED,
    )
    _sums(
        page,
        totals,
        "sage_tokens_estimated_total",
        "Tokens of streams whose usage no engine reported, estimated; not among sage_tokens_total.",
        _ESTIMATED,
    )
    page.counter(
        "sage_texts_total",
        "Texts of embedding requests.",
        [(_owner(owner), counts.texts) for owner, counts in totals.items() if counts.texts],
    )
    page.counter(
        "sage_busy_seconds_total",
        "The requests' share of the time in which an instance had any: n requests share it equally.",
        [(_owner(owner), counts.busy_s) for owner, counts in totals.items()],
    )
    page.counter("sage_requests_cancelled_total", "Callers that left first.", [({}, stats.cancelled)])
    page.counter("sage_requests_cut_total", "Answers that broke off.", [({}, stats.cut)])
    page.counter(
        "sage_requests_failed_by_engine_total",
        "Answers that ended in order with an engine's error, with the finish reason abort, or without a last event.",
        [({}, stats.engine_failures)],
    )
    page.counter(
        "sage_errors_total",
        "Errors that the gateway itself answered, by their code.",
        [({"code": code}, count) for code, count in stats.errors.items()],
    )
    page.counter(
        "sage_retries_total", "Requests sent to another instance.", [({}, gateway.scheduler.rates.retried)]
    )
    page.histogram(
        "sage_queue_wait_seconds",
        "Waits of requests that queued, by priority.",
        [({"priority": priority.name.lower()}, stats.waits[priority]) for priority in RequestPriority],
    )


_REPORTED: dict[str, Callable[[Counts], int]] = {
    "prompt": lambda counts: counts.prompt,
    "completion": lambda counts: counts.completion,
    "cached": lambda counts: counts.cached,
}
_ESTIMATED: dict[str, Callable[[Counts], int]] = {
    "prompt": lambda counts: counts.estimated_prompt,
    "completion": lambda counts: counts.estimated_completion,
}


def _sums(
    page: Exposition, totals: Totals, name: str, help_: str, kinds: Mapping[str, Callable[[Counts], int]]
) -> None:
    page.counter(
        name,
        help_,
        [
            ({"kind": kind, **_owner(owner)}, tokens)
            for kind, tokens_of in kinds.items()
            for owner, counts in totals.items()
            if (tokens := tokens_of(counts))
        ],
    )


def _totals(series: Mapping[Key, Counts]) -> Totals:
    """The counts by model, instance and key, of requests that an instance was asked for."""
    totals: dict[tuple[str, str, str], Counts] = {}
    for (_, _, model, instance, key), counts in series.items():
        if instance:
            totals.setdefault((model, instance, key), Counts()).add(counts)
    return totals


def _labels(key: Key) -> dict[str, str]:
    route, status, model, instance, owner = key
    return {"route": route, "status": str(status), "model": model, "instance": instance, "key": owner}


def _owner(owner: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("model", "instance", "key"), owner, strict=True))
