"""``/admin/models``: each model that instances or managed engines serve, and the state of those."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sage_inference.gateway.api.admin import bounded
from sage_inference.gateway.api.models import KINDS, served_models
from sage_inference.gateway.api.status import kind_of
from sage_inference.gateway.gateway import Gateway
from sage_inference.types import EngineState

# By the kind of an instance or of a managed engine. "mixed" and "auto" may be either, so they have none.
_OF_ENGINE = {
    "llm": "chat",
    "hybrid": "chat",
    "prefilling": "chat",
    "decoding": "chat",
    "embedding": "embedding",
    "reranker": "rerank",
    "classifier": "classification",
}


def model_documents(gateway: Gateway) -> list[dict[str, Any]]:
    """The models in the order of their instances; those that only a managed engine will serve come last."""
    cards = served_models(gateway)
    found: dict[str, dict[str, Any]] = {}
    for upstream in gateway.engines.values():
        instance = upstream.instance
        for name in instance.models:
            model = found.get(name)
            if model is None:
                model = found[name] = _document(name, *_work(cards.get(name, {}), kind_of(instance)))
            model["instances"] += 1
            ready = instance.state is EngineState.READY
            model["ready"] += ready
            model["simulated"] = model["simulated"] or instance.simulated
            if model["state"] != "ready":
                model["state"] = instance.state.value
            tokens = instance.context_tokens.get(name)
            model["context_tokens"] = max(tokens or 0, model["context_tokens"] or 0) or None
    for name, engines in gateway.waiting_room.declared.items():
        model = found.setdefault(name, _document(name, _OF_ENGINE.get(engines[0].kind)))
        model["engines"] = [engine.name for engine in engines]
        model["instances"] = max(model["instances"], len(engines))
        if not model["ready"]:
            model["state"] = engines[0].state_name
    for alias, target in gateway.registry.aliases.items():
        if target in found and alias not in found:
            found[target]["aliases"].append(alias)
    return list(found.values())


def _work(card: dict[str, Any], of_instance: str) -> tuple[str | None, list[str]]:
    """The kind and the capabilities, by the card. A model without a healthy instance has the kind of its instance."""
    kind, words = card.get("type"), card.get("capabilities")
    known = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
    return (kind if kind in KINDS else _OF_ENGINE.get(of_instance)), known


def _document(name: str, kind: str | None, capabilities: list[str] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "capabilities": capabilities or [],
        "state": "off",
        "ready": 0,
        "instances": 0,
        "context_tokens": None,
        "aliases": [],
        "engines": [],
        "simulated": False,
    }


async def list_models(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    settings = gateway.settings
    defaults = {"chat": settings.llm_model, "embedding": settings.embedding_model}
    return JSONResponse({"schema": 1, "models": model_documents(gateway), "defaults": defaults})


routes = [Route("/admin/models", bounded(list_models))]
