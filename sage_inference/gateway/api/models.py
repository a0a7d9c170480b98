"""``/v1/models``: the models of healthy instances and of managed engines, each of them once, and the aliases."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sage_inference.control_plane.instances.rejections import departed, unhealthy
from sage_inference.engines.detect import TRIED
from sage_inference.gateway import errors
from sage_inference.gateway.api.access import TENANT
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.gateway import Gateway

# In this order: the first capability of a model decides on its type.
_CAPABILITIES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embed",
    "/embed": "embed",
    "/embed_sparse": "embed",
    "/v1/rerank": "rerank",
    "/rerank": "rerank",
    "/v1/audio/transcriptions": "transcription",
    "/v1/audio/translations": "translation",
    "/v1/audio/speech": "speech",
    "/classify": "classify",
    "/predict": "classify",
}
_TYPES = {
    "chat": "chat",
    "completion": "chat",
    "embed": "embedding",
    "rerank": "rerank",
    "transcription": "transcription",
    "translation": "transcription",
    "speech": "speech",
    "classify": "classification",
}
KINDS = frozenset(_TYPES.values())

_OF_KIND = {"llm": "chat", "embedding": "embed", "reranker": "rerank"}  # capabilities of managed engines


def served_models(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """Model cards by id: the card of the first healthy instance, with the capabilities of all healthy ones.

    ``max_model_len`` is the largest of any instance. ``type`` and ``capabilities`` are added if the engine reports
    neither, so that programs do not offer an embedding model for chat.
    """
    cards: dict[str, dict[str, Any]] = {}
    routes: dict[str, set[str]] = {}
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
            first = cards.setdefault(model.id, card)
            longest = engine.instance.context_tokens.get(model.id, 0)
            if longest > (first.get("max_model_len") or longest):
                first["max_model_len"] = longest
            if not engine.detected.guessed:
                routes.setdefault(model.id, set()).update(engine.instance.routes)
            elif engine.settings.kind != "auto":  # a route that is only tried shows no capability
                routes.setdefault(model.id, set()).update(engine.instance.routes - TRIED)
    for name, card in cards.items():
        capabilities = [word for route, word in _CAPABILITIES.items() if route in routes.get(name, ())]
        if capabilities and "capabilities" not in card:
            card["capabilities"] = list(dict.fromkeys(capabilities))
            card.setdefault("type", _TYPES[capabilities[0]])
    for name, engines in gateway.waiting_room.declared.items():
        if name not in cards:
            cards[name] = {"id": name, "object": "model", "created": 0, "owned_by": "sage-inference"}
            if (word := _OF_KIND.get(engines[0].kind)) is not None:
                cards[name] |= {"type": _TYPES[word], "capabilities": [word]}
        cards[name] = {**cards[name], "sage_state": engines[0].state_name}
    for alias, target in gateway.registry.aliases.items():
        if target in cards and alias not in cards:
            cards[alias] = {**cards[target], "id": alias, "root": target, "parent": target}
    return cards


def _allowed_models(request: Request) -> dict[str, dict[str, Any]]:
    """The cards of the models that the caller's key may use."""
    gateway: Gateway = request.app.state.gateway
    cards = served_models(gateway)
    budget = gateway.budgets.of(request.scope.get(TENANT) or "")
    if budget is None:
        return cards
    resolve = gateway.registry.resolve
    return {name: card for name, card in cards.items() if budget.models.allow(resolve(name))}


def _refuse_of_source(request: Request, name: str) -> None:
    """Raise 503 for a model of a source that is only out of service, if the caller's key may use it."""
    gateway: Gateway = request.app.state.gateway
    registry, model = gateway.registry, gateway.registry.resolve(name)
    budget = gateway.budgets.of(request.scope.get(TENANT) or "")
    if budget is not None and not budget.models.allow(model):
        return
    names = [each.instance_id for each in registry.instances.values() if model in each.models]
    if any(map(gateway.sources.owner_of, names)):
        raise errors.from_refusal(unhealthy(model, names))
    if refusal := departed(registry, model):
        raise errors.from_refusal(refusal)


async def list_models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": list(_allowed_models(request).values())})


async def get_model(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    cards = _allowed_models(request)
    name = request.path_params["model_id"]
    if not name:
        raise HTTPException(404)  # a trailing slash
    if name not in cards:
        gateway.scheduler.notify_unserved()
        _refuse_of_source(request, name)
        served = ", ".join(cards) or "none"
        raise ApiError(
            404,
            f'no instance serves model "{name}"; served now: {served}',
            code="model_not_found",
            param="model",
        )
    return JSONResponse(cards[name])
