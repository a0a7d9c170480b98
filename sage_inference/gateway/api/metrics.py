"""``/metrics``: the gateway's counters for Prometheus."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from sage_inference._version import __version__
from sage_inference.gateway.embeddings import report as embeddings
from sage_inference.gateway.gateway import Gateway
from sage_inference.telemetry.exposition import CONTENT_TYPE, Exposition
from sage_inference.types import EngineState


async def metrics(request: Request) -> Response:
    return Response(exposition(request.app.state.gateway), media_type=CONTENT_TYPE)


def exposition(gateway: Gateway) -> str:
    """The page of metrics. Names begin with ``sage_``, and times are in seconds."""
    page = Exposition()
    engines = gateway.engines
    page.gauge("sage_info", "The gateway's version.", [({"version": __version__}, 1)])
    page.gauge("sage_uptime_seconds", "Time since the start.", [({}, gateway.uptime_s)])
    page.gauge("sage_connections", "Open connections of callers.", [({}, gateway.connections)])
    page.gauge("sage_event_loop_tasks", "Tasks of the event loop.", [({}, len(asyncio.all_tasks()))])
    page.counter(
        "sage_requests_total",
        "Relayed requests that ended, by route and status; status 0: the caller left first.",
        [({"route": r, "status": str(s)}, n) for (r, s), n in gateway.stats.outcomes.items()],
    )
    page.counter("sage_requests_cancelled_total", "Callers that left first.", [({}, gateway.stats.cancelled)])
    page.counter("sage_requests_cut_total", "Answers that broke off.", [({}, gateway.stats.cut)])
    page.counter(
        "sage_requests_failed_by_engine_total",
        "Answers that ended in order with an engine's error, with the finish reason abort, or without a last event.",
        [({}, gateway.stats.engine_failures)],
    )
    page.counter(
        "sage_retries_total", "Requests sent to another instance.", [({}, gateway.scheduler.rates.retried)]
    )
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
    page.histogram("sage_queue_wait_seconds", "Waits of requests that queued.", [({}, gateway.stats.waits)])
    rates = gateway.scheduler.rates
    page.counter("sage_prompt_tokens_total", "Prompt tokens placed, estimated.", [({}, rates.prompt_tokens)])
    page.counter(
        "sage_prompt_tokens_uncached_total",
        "Those of them that their instance likely had not cached.",
        [({}, rates.uncached_tokens)],
    )
    page.gauge(
        "sage_instance_pending_tokens",
        "Uncached prompt tokens sent to an instance and not begun, estimated.",
        [({"instance": n}, e.instance.load.pending_tokens) for n, e in engines.items()],
    )
    page.gauge(
        "sage_instance_seconds_per_token",
        "Learned time of an uncached prompt token.",
        [({"instance": n}, e.instance.load.ms_per_token / 1000) for n, e in engines.items()],
    )
    page.gauge(
        "sage_instance_requests",
        "Requests in flight on an instance.",
        [({"instance": n}, e.instance.active_requests) for n, e in engines.items()],
    )
    page.gauge(
        "sage_instance_ready",
        "1 while an instance takes requests.",
        [({"instance": n}, int(e.instance.is_available)) for n, e in engines.items()],
    )
    page.gauge(
        "sage_instance_asleep",
        "1 while an instance is well and sleeps: it takes no requests until it is woken.",
        [({"instance": n}, int(e.instance.state is EngineState.ASLEEP)) for n, e in engines.items()],
    )
    page.gauge(
        "sage_gpu_seconds_per_embedding_token",
        "Learned time that a token of embeddings takes of a GPU that streams share.",
        [
            ({"gpu": name}, cost)
            for name, gpu in gateway.scheduler.gpus.items()
            if (cost := gpu.cost.seconds_a_token) is not None
        ],
    )
    page.histogram(
        "sage_time_to_first_byte_seconds",
        "From sending a request to the first byte of the instance's answer.",
        [({"instance": n}, e.ttft + e.ttfb) for n, e in engines.items()],
    )
    embeddings.expose(gateway.embeddings, page)
    return page.text()
