"""Health routes: is the process alive, can it serve, what is it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sage_inference import __version__
from sage_inference.control_plane.routes import ROUTES
from sage_inference.gateway.state import Gateway


async def live(request: Request) -> Response:
    """200 while the process answers at all."""
    return JSONResponse({"status": "alive"})


async def health(request: Request) -> Response:
    """200 while at least one instance takes requests, else 503."""
    gateway: Gateway = request.app.state.gateway
    healthy = [i.instance_id for i in gateway.registry.instances.values() if i.is_available]
    document = {
        "status": "ok" if healthy else "no healthy instance",
        "instances": {"healthy": len(healthy), "total": len(gateway.engines)},
    }
    if healthy:
        return JSONResponse(document)
    return JSONResponse(document, 503, {"retry-after": "5"})


async def ready(request: Request) -> Response:
    """As ``health``, and 503 too while the gateway drains: nothing new should be sent here."""
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
            "name": "sage-inference",
            "version": __version__,
            "status": "ok" if gateway.can_serve else "no healthy instance",
            "models": registry.models(available),
            "serves": {
                "llm": registry.models(i for i in available if i.instance_type.serves_llm),
                "embedding": registry.models(i for i in available if i.instance_type.serves_embeddings),
            },
            "routes": ["/v1/models", "/health", "/metrics", *ROUTES],
        }
    )
