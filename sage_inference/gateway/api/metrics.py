"""``/metrics``: the gateway's counters for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.live.gpus import GpuReadings
from sage_inference.gateway.metrics.page import exposition
from sage_inference.telemetry.exposition import CONTENT_TYPE


async def metrics(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    gpus: GpuReadings = request.app.state.gpus
    return Response(exposition(gateway, await gpus.fresh()), media_type=CONTENT_TYPE)
