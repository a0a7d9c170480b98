"""``/admin/engines``: the managed engines, and orders to them by name. No command ever comes from a request."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.gateway.api.admin import bounded
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.managed.documents import engine_document, engine_documents
from sage_inference.gateway.managed.engine_set import ManagedEngine, ManagedEngines

ORDERS = ("load", "unload", "restart")
_LONGEST_MODEL = 512


async def list_engines(request: Request) -> Response:
    engines = request.app.state.engines
    return JSONResponse({"engines": engine_documents(engines)})


async def order(request: Request) -> Response:
    """``load``, ``unload`` or ``restart``. Answers at once; the same order twice is one order."""
    engines, engine = _named(request)
    what = request.url.path.rpartition("/")[2]
    if engines.context.passive:
        raise ApiError(503, "another gateway takes over; ask it", "service_unavailable", "handing_over")
    if what == "load":
        engine.load(asked=True)
    elif what == "unload":
        engines.unload(engine)
    else:
        engine.restart()
    await asyncio.sleep(0)  # the supervisor takes the order
    await asyncio.sleep(0)
    return JSONResponse({"engine": engine_document(engines, engine)}, 202)


def _named(request: Request) -> tuple[ManagedEngines, ManagedEngine]:
    engines: ManagedEngines | None = request.app.state.engines
    name = request.path_params["name"]
    if engines is None or name not in engines.engines:
        known = ", ".join(engines.engines) if engines is not None else ""
        raise ApiError(404, f"no engine {name}; there are: {known or 'none'}", code="engine_not_found")
    return engines, engines.engines[name]


async def add_engine(request: Request) -> Response:
    """Load a model that no engine is declared for, as an engine of this run: ``{"model": NAME}``."""
    engines: ManagedEngines | None = request.app.state.engines
    if engines is None or engines.context.passive:
        raise ApiError(409, "this gateway starts no engines", code="no_engines")
    try:
        document = msgspec.json.decode(request.state.body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(document, dict) or set(document) != {"model"}:
        raise ApiError(400, 'the body must be {"model": NAME}, and nothing else')
    model = document["model"]
    if not isinstance(model, str) or not 0 < len(model) <= _LONGEST_MODEL or not model.isprintable():
        raise ApiError(400, "'model' must be the name of a model or of a directory", param="model")
    known = engines.gateway.waiting_room.declared.get(model)
    if known:
        engine = engines.engines[known[0].name]
        engine.load(asked=True)
    elif model in engines.gateway.registry.models():
        raise ApiError(409, f'an instance that others started serves model "{model}" already', param="model")
    else:
        engine = engines.declare(ManagedEngineSettings(model=model), "load")
    await asyncio.sleep(0)
    return JSONResponse({"engine": engine_document(engines, engine)}, 202)


async def keep_engines(request: Request) -> Response:
    """Let the engines run on when this gateway stops."""
    engines: ManagedEngines | None = request.app.state.engines
    if engines is not None:
        engines.keeps = True
    return JSONResponse({"ok": True})


routes = [
    Route("/admin/engines", bounded(list_engines)),
    Route("/admin/engines", bounded(add_engine), methods=["POST"]),
    Route("/admin/engines/keep", bounded(keep_engines), methods=["POST"]),
    *(Route(f"/admin/engines/{{name}}/{each}", bounded(order), methods=["POST"]) for each in ORDERS),
]
