"""Families of sources: the age of their lists, their instances, and their failures."""

from __future__ import annotations

from sage_inference.gateway.gateway import Gateway
from sage_inference.telemetry.exposition import Exposition


def expose(gateway: Gateway, page: Exposition) -> None:
    watches = [({"source": watch.label}, watch) for watch in gateway.sources.watches]
    page.gauge(
        "sage_source_age_seconds",
        "Time since a source last gave its list; none before its first one.",
        [(labels, age) for labels, watch in watches if (age := watch.age_s) is not None],
    )
    page.gauge(
        "sage_source_instances",
        "Instances that a source names.",
        [(labels, watch.engines) for labels, watch in watches],
    )
    page.counter(
        "sage_source_failures_total",
        "Looks at a source that gave no list.",
        [(labels, watch.failures) for labels, watch in watches],
    )
