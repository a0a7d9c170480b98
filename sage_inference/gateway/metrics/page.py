"""The page as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sage_inference._version import __version__
from sage_inference.engines.managed.gpus import GpuUse
from sage_inference.gateway.embeddings import report as embeddings
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.metrics import instances, requests, sources
from sage_inference.telemetry.exposition import Exposition


def exposition(gateway: Gateway, gpus: Sequence[GpuUse] = ()) -> str:
    """The page of metrics. Names begin with ``sage_``, times are in seconds, sizes in bytes."""
    page = Exposition()
    page.gauge("sage_info", "The gateway's version.", [({"version": __version__}, 1)])
    page.gauge("sage_uptime_seconds", "Time since the start.", [({}, gateway.uptime_s)])
    page.gauge("sage_connections", "Open connections of callers.", [({}, gateway.connections)])
    page.gauge("sage_event_loop_tasks", "Tasks of the event loop.", [({}, len(asyncio.all_tasks()))])
    requests.expose(gateway, page)
    page.counter(
        "sage_prompts_handed_over_total",
        "Prompts that a decoding instance got from a prefilling one.",
        [({}, gateway.stats.handed_over)],
    )
    page.counter(
        "sage_prompt_handover_failures_total",
        "Requests that were to be split and were sent whole instead.",
        [({}, gateway.stats.handover_failures)],
    )
    page.gauge("sage_requests_queued", "Requests waiting for a slot.", [({}, gateway.scheduler.queued)])
    page.gauge("sage_queue_bytes", "Bytes of requests that wait.", [({}, gateway.scheduler.queued_bytes)])
    rates = gateway.scheduler.rates
    page.counter("sage_prompt_tokens_total", "Prompt tokens placed, estimated.", [({}, rates.prompt_tokens)])
    page.counter(
        "sage_prompt_tokens_uncached_total",
        "Those of them that their instance likely had not cached.",
        [({}, rates.uncached_tokens)],
    )
    instances.expose(gateway, page)
    sources.expose(gateway, page)
    _expose_gpus(page, gpus)
    embeddings.expose(gateway.embeddings, page)
    return page.text()


def _expose_gpus(page: Exposition, gpus: Sequence[GpuUse]) -> None:
    labels = [{"gpu": str(each.index), "name": each.name} for each in gpus]
    page.gauge(
        "sage_gpu_memory_used_bytes",
        "Memory of a GPU in use, by NVML.",
        [(label, each.used) for label, each in zip(labels, gpus, strict=True)],
    )
    page.gauge(
        "sage_gpu_memory_bytes",
        "Memory of a GPU, by NVML.",
        [(label, each.total) for label, each in zip(labels, gpus, strict=True)],
    )
    page.gauge(
        "sage_gpu_utilization_ratio",
        "Part of the last second in which a GPU worked, by NVML.",
        [
            (label, each.percent / 100)
            for label, each in zip(labels, gpus, strict=True)
            if each.percent is not None
        ],
    )
