"""Families of instances: their state, their load, and the times of their answers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.upstream import Upstream
from sage_inference.telemetry.exposition import Exposition, Histogram
from sage_inference.types import EngineState

SEVERAL = "(several)"  # models of one instance
MOST_INSTANCES = 256  # with families of their own: each has about a hundred lines

_GAUGES: tuple[tuple[str, str, Callable[[Upstream], float]], ...] = (
    (
        "sage_instance_pending_tokens",
        "Uncached prompt tokens sent to an instance and not begun, estimated.",
        lambda upstream: upstream.instance.load.pending_tokens,
    ),
    (
        "sage_instance_seconds_per_token",
        "Learned time of an uncached prompt token.",
        lambda upstream: upstream.instance.load.ms_per_token / 1000,
    ),
    (
        "sage_instance_requests",
        "Requests in flight on an instance.",
        lambda upstream: upstream.instance.active_requests,
    ),
    (
        "sage_instance_ready",
        "1 while an instance takes requests.",
        lambda upstream: int(upstream.instance.is_available),
    ),
    (
        "sage_instance_asleep",
        "1 while an instance is well and sleeps: it takes no requests until it is woken.",
        lambda upstream: int(upstream.instance.state is EngineState.ASLEEP),
    ),
)
_TIMES: tuple[tuple[str, str, Callable[[Upstream], Histogram]], ...] = (
    (
        "sage_time_to_first_token_seconds",
        "From sending a stream's request to the first byte of its answer, by model.",
        lambda upstream: upstream.ttft,
    ),
    (
        "sage_time_per_output_token_seconds",
        "The mean time of a token after the first, of each stream that ended in order.",
        lambda upstream: upstream.tpot,
    ),
    (
        "sage_inter_chunk_seconds",
        "Time between two chunks of a stream, of one stream in 32.",
        lambda upstream: upstream.gaps,
    ),
)


def expose(gateway: Gateway, page: Exposition) -> None:
    engines = list(islice(gateway.engines.items(), MOST_INSTANCES))
    for metric, help_, value in _GAUGES:
        page.gauge(metric, help_, [({"instance": name}, value(each)) for name, each in engines])
    page.counter(
        "sage_instance_ejections_total",
        "Times that an instance went out of service because it failed.",
        [({"instance": name}, each.ejections) for name, each in engines],
    )
    page.histogram(
        "sage_time_to_first_byte_seconds",
        "From sending a request to the first byte of the instance's answer, also of streams.",
        [({"instance": name}, each.ttft + each.ttfb) for name, each in engines],
    )
    for metric, help_, histogram in _TIMES:
        page.histogram(metric, help_, [(_labels(name, each), histogram(each)) for name, each in engines])
    page.histogram(
        "sage_time_to_first_token_ratio",
        "The time to the first byte of streams, divided by the time that was predicted at the decision.",
        [({"instance": name}, ratios) for name, ratios in gateway.predictions.ratios.items()],
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


def _labels(name: str, upstream: Upstream) -> dict[str, str]:
    models = upstream.instance.models
    return {"model": models[0] if len(models) == 1 else SEVERAL if models else "", "instance": name}
