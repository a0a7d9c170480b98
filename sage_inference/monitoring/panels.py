"""The panels of the dashboard: rows of titles, units and queries in PromQL.

``$instance`` and ``$model`` are variables of the dashboard.
"""

from __future__ import annotations

from typing import NamedTuple

_SELECTED = 'instance=~"$instance",model=~"$model"'
_INSTANCES = 'instance=~"$instance"'


class Query(NamedTuple):
    expression: str
    legend: str


class Panel(NamedTuple):
    """``unit`` is one of Grafana's. ``width`` is in 24ths of the row."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    help: str = ""
    kind: str = "timeseries"
    width: int = 8
    is_stacked: bool = False


def _rate(metric: str, by: str, selection: str = _SELECTED) -> str:
    chosen = f"{{{selection}}}" if selection else ""
    return f"sum by ({by}) (rate({metric}{chosen}[$__rate_interval]))"


def _stacked(title: str, metric: str, label: str, help_: str = "", selection: str = _SELECTED) -> Panel:
    """Requests a second by one label, on top of each other."""
    query = Query(_rate(metric, label, selection), f"{{{{{label}}}}}")
    return Panel(title, "reqps", (query,), help_, is_stacked=True)


def _quantile(share: float, metric: str, selection: str = _SELECTED, by: str = "") -> str:
    groups = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({share:g}, sum by ({groups}) "
        f"(rate({metric}_bucket{{{selection}}}[$__rate_interval])))"
    )


def _quantiles(metric: str, selection: str = _SELECTED) -> tuple[Query, ...]:
    return tuple(
        Query(_quantile(share, metric, selection), name)
        for share, name in ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))
    )


def _number(title: str, unit: str, expression: str, help_: str = "") -> Panel:
    return Panel(title, unit, (Query(expression, ""),), help_, "stat", 4)


_NOW = (
    _number("Engines that serve", "none", f"sum(sage_instance_ready{{{_INSTANCES}}})"),
    _number("Requests in flight", "none", f"sum(sage_instance_requests{{{_INSTANCES}}})"),
    _number("Requests that wait", "none", "sum(sage_requests_queued)"),
    _number("Requests", "reqps", f"sum(rate(sage_requests_total{{{_SELECTED}}}[$__rate_interval]))"),
    _number(
        "Output tokens",
        "tokens/s",
        f'sum(rate(sage_tokens_total{{kind="completion",{_SELECTED}}}[$__rate_interval]))',
    ),
    _number(
        "Answers with an error of a server",
        "percentunit",
        f'(sum(rate(sage_requests_total{{status=~"5..",{_SELECTED}}}[$__rate_interval])) or vector(0))'
        f" / sum(rate(sage_requests_total{{{_SELECTED}}}[$__rate_interval]))",
    ),
)
_REQUESTS = (
    _stacked("Requests by status", "sage_requests_total", "status", "Status 0: the caller left first."),
    _stacked("Requests by model", "sage_requests_total", "model"),
    _stacked(
        "Requests by key", "sage_requests_total", "key", "The name of the caller's key; empty without one."
    ),
    _stacked("Errors of the gateway's own", "sage_errors_total", "code", selection=""),
    Panel(
        "Wait in the queue (95 %)",
        "s",
        (
            Query(
                _quantile(0.95, "sage_queue_wait_seconds", by="priority", selection=""),
                "{{priority}}",
            ),
        ),
        "Of requests that waited.",
    ),
    Panel(
        "Left, cut, sent again",
        "reqps",
        (
            Query("sum(rate(sage_requests_cancelled_total[$__rate_interval]))", "callers that left"),
            Query("sum(rate(sage_requests_cut_total[$__rate_interval]))", "answers that broke off"),
            Query(
                "sum(rate(sage_requests_failed_by_engine_total[$__rate_interval]))",
                "answers that an engine gave up",
            ),
            Query("sum(rate(sage_retries_total[$__rate_interval]))", "sent to another engine"),
        ),
    ),
)
_SPEED = (
    Panel(
        "Time to the first token",
        "s",
        _quantiles("sage_time_to_first_token_seconds"),
        "Of streams, from the sending to the engine.",
    ),
    Panel("Time of an output token", "s", _quantiles("sage_time_per_output_token_seconds"), "Of streams."),
    Panel("Gap between two chunks", "s", _quantiles("sage_inter_chunk_seconds"), "Of one stream in 32."),
    Panel(
        "Tokens",
        "tokens/s",
        (Query(_rate("sage_tokens_total", "kind"), "{{kind}}"),),
        "As engines reported them. Cached ones are among the prompt's.",
    ),
    Panel(
        "Prompt tokens found in an engine's cache",
        "percentunit",
        (
            Query(
                "1 - sum(rate(sage_prompt_tokens_uncached_total[$__rate_interval]))"
                " / sum(rate(sage_prompt_tokens_total[$__rate_interval]))",
                "as placed, estimated",
            ),
            Query(
                f'sum(rate(sage_tokens_total{{kind="cached",{_SELECTED}}}[$__rate_interval]))'
                f' / sum(rate(sage_tokens_total{{kind="prompt",{_SELECTED}}}[$__rate_interval]))',
                "as engines report",
            ),
        ),
    ),
    Panel(
        "Real divided by predicted time to the first token",
        "none",
        (
            Query(
                _quantile(0.5, "sage_time_to_first_token_ratio", _INSTANCES, by="instance"),
                "{{instance}}",
            ),
        ),
        "The median. Near 1, the decisions rest on good predictions.",
    ),
)
_ENGINES = (
    Panel(
        "Requests in flight",
        "none",
        (Query(f"sage_instance_requests{{{_INSTANCES}}}", "{{instance}}"),),
    ),
    Panel(
        "Prompt tokens that engines have not begun",
        "none",
        (Query(f"sage_instance_pending_tokens{{{_INSTANCES}}}", "{{instance}}"),),
    ),
    Panel(
        "Busy",
        "percentunit",
        (Query(_rate("sage_busy_seconds_total", "instance"), "{{instance}}"),),
        "The share of time in which an engine had requests.",
    ),
    Panel(
        "Ready",
        "bool_yes_no",
        (Query(f"sage_instance_ready{{{_INSTANCES}}}", "{{instance}}"),),
        kind="state-timeline",
        width=16,
    ),
    Panel(
        "Out of service because of failures",
        "none",
        (
            Query(
                f"sum by (instance) (increase(sage_instance_ejections_total{{{_INSTANCES}}}[$__range]))",
                "{{instance}}",
            ),
        ),
        kind="stat",
    ),
)
_EMBEDDINGS = (
    Panel(
        "Embedded texts",
        "ops",
        (
            Query("sum(rate(sage_embedding_texts_total[$__rate_interval]))", "asked for"),
            Query("sum(rate(sage_embedding_sent_texts_total[$__rate_interval]))", "sent to engines"),
            Query("sum(rate(sage_embedding_cached_texts_total[$__rate_interval]))", "from the cache"),
        ),
    ),
    Panel(
        "Texts of a call",
        "none",
        (
            Query(
                "sum(rate(sage_embedding_sent_texts_total[$__rate_interval]))"
                " / sum(rate(sage_embedding_calls_total[$__rate_interval]))",
                "texts of a call",
            ),
        ),
        "Texts of different callers are merged into calls.",
    ),
    Panel("Texts that wait", "none", (Query("sum(sage_embedding_texts_waiting)", "texts"),)),
)
_GPUS = (
    Panel(
        "GPU memory in use",
        "percentunit",
        (Query("sage_gpu_memory_used_bytes / sage_gpu_memory_bytes", "GPU {{gpu}}"),),
        width=12,
    ),
    Panel(
        "GPU in use",
        "percentunit",
        (Query("sage_gpu_utilization_ratio", "GPU {{gpu}}"),),
        width=12,
    ),
)
ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Now", _NOW),
    ("Requests", _REQUESTS),
    ("Speed", _SPEED),
    ("Engines", _ENGINES),
    ("Embeddings", _EMBEDDINGS),
    ("GPUs", _GPUS),
)
