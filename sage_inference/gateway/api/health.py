"""Health routes: whether the process is alive, whether it can serve, and facts about it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sage_inference._version import __version__
from sage_inference.engines.detect import GATEWAY
from sage_inference.gateway.gateway import Gateway
from sage_inference.requests.response_routes import METHODS
from sage_inference.requests.routes import ROUTES
from sage_inference.types import EngineState


async def live(request: Request) -> Response:
    """Always 200."""
    return JSONResponse({"status": "alive"})


async def health(request: Request) -> Response:
    """200 while at least one instance takes requests, otherwise 503."""
    gateway: Gateway = request.app.state.gateway
    instances = gateway.registry.instances.values()
    healthy = sum(i.is_available for i in instances)
    document: dict[str, Any] = {
        "status": _status(gateway),
        "instances": {"healthy": healthy, "total": len(gateway.engines)},
    }
    if asleep := [i.instance_id for i in instances if i.state is EngineState.ASLEEP]:
        document["asleep"] = asleep
    if healthy:
        return JSONResponse(document)
    return JSONResponse(document, 503, {"retry-after": "5"})


def _status(gateway: Gateway) -> str:
    if gateway.can_serve:
        return "ok"
    states = {i.state for i in gateway.registry.instances.values()}
    return "every instance is asleep" if states == {EngineState.ASLEEP} else "no healthy instance"


async def ready(request: Request) -> Response:
    """Like ``health``, but 503 while the gateway drains, so that load balancers send no new requests."""
    gateway: Gateway = request.app.state.gateway
    if gateway.draining:
        return JSONResponse({"status": "draining"}, 503)
    return await health(request)


async def info(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    registry = gateway.registry
    available = [i for i in registry.instances.values() if i.is_available]
    return JSONResponse(
        {
            "name": GATEWAY,
            "version": __version__,
            "status": _status(gateway),
            "models": registry.models(available),
            "serves": {
                "llm": registry.models(i for i in available if i.instance_type.serves_llm),
                "embedding": registry.models(i for i in available if i.instance_type.serves_embeddings),
            },
            "routes": ["/v1/models", "/health", "/metrics", *ROUTES, *METHODS],
        }
    )
