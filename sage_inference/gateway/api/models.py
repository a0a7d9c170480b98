"""``/v1/models``: what the healthy instances report, each model once, and the aliases."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.state import Gateway


def served_models(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """Model cards by id. A card is the first healthy instance's own words."""
    cards: dict[str, dict[str, Any]] = {}
    for engine in gateway.engines.values():
        if engine.detected is None or not engine.instance.is_available:
            continue
        for model in engine.detected.models:
            card = {
                "id": model.id,
                "object": "model",
                "created": model.created,
                "owned_by": model.owned_by,
                **model.raw,
            }
            cards.setdefault(model.id, card)
    for alias, target in gateway.registry.aliases.items():
        if target in cards and alias not in cards:
            cards[alias] = {**cards[target], "id": alias, "root": target, "parent": target}
    return cards


async def list_models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": list(served_models(request.app.state.gateway).values())})


async def get_model(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    cards = served_models(gateway)
    name = request.path_params["model_id"]
    if name not in cards:
        served = ", ".join(cards) or "none"
        raise ApiError(
            404,
            f'no instance serves model "{name}"; served now: {served}',
            code="model_not_found",
            param="model",
        )
    return JSONResponse(cards[name])
