"""``/admin``: instances, policy and reload at run time, for this machine's user or the admin key."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sage_inference.config.errors import ConfigError
from sage_inference.config.load import parse_instance
from sage_inference.control_plane.manager import ControlPlaneManager
from sage_inference.control_plane.policies import POLICIES
from sage_inference.gateway.api.status import instance_document, status_document
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.fleet import Fleet, name_of
from sage_inference.gateway.guard import is_loopback
from sage_inference.gateway.state import Gateway
from sage_inference.telemetry.decisions import KEPT

# A proxy on this machine speaks for somebody else: its requests are not this machine's own.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

Handler = Callable[[Request], Awaitable[Response]]


def authorize(request: Request) -> None:
    """Raises ``ApiError`` 403 for who may not: needs a local caller, the admin key, or this run's token."""
    gateway: Gateway = request.app.state.gateway
    key = request.headers.get("authorization", "").removeprefix("Bearer ").strip().encode()
    if key and gateway.guard.is_admin(key):
        return
    if key and gateway.admin_token and hmac.compare_digest(key, gateway.admin_token.encode()):
        return
    local = request.client is None or is_loopback(request.client.host)
    headers = request.headers
    # A browser sends Origin: pages, even this machine's own, have no business here without a key.
    if local and "origin" not in headers and not any(name in headers for name in _FORWARDED):
        return
    raise ApiError(
        403, "/admin is for this machine only, or for the admin key (admin_key)", "permission_error"
    )


def guarded(handler: Handler) -> Handler:
    async def checked(request: Request) -> Response:
        authorize(request)
        return await handler(request)

    return checked


async def status(request: Request) -> Response:
    return JSONResponse(status_document(request.app.state.gateway))


async def reload(request: Request) -> Response:
    try:
        changes = request.app.state.reload()
    except ConfigError as error:
        raise ApiError(400, str(error), code="bad_config") from None
    return JSONResponse({"ok": True, **asdict(changes)})


async def list_instances(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    return JSONResponse({"instances": [instance_document(e) for e in gateway.engines.values()]})


async def add_instance(request: Request) -> Response:
    fleet: Fleet = request.app.state.fleet
    try:
        settings = parse_instance(await _json(request))
    except ConfigError as error:
        raise ApiError(400, str(error), param=error.key) from None
    name = name_of(settings)
    if name in fleet.gateway.engines:
        raise ApiError(
            409, f"instance {name} exists already; remove it first, or give another name", param="name"
        )
    return JSONResponse(instance_document(fleet.add(settings)), 201)


async def remove_instance(request: Request) -> Response:
    return _done(request, request.app.state.fleet.remove(request.path_params["name"]))


async def drain_instance(request: Request) -> Response:
    return _done(request, request.app.state.fleet.drain(request.path_params["name"]))


def _done(request: Request, found: bool) -> Response:
    if not found:
        name, known = request.path_params["name"], ", ".join(request.app.state.gateway.engines) or "none"
        raise ApiError(404, f"no instance {name}; there are: {known}", code="instance_not_found")
    return JSONResponse({"ok": True})


async def get_policy(request: Request) -> Response:
    return JSONResponse(_policies(request.app.state.gateway.manager))


async def put_policy(request: Request) -> Response:
    """``{"policy": NAME}`` for all, with ``"model"`` for one; ``{"model": M, "policy": null}`` ends M's own."""
    document = await _json(request)
    asked = document if isinstance(document, dict) else {}
    name, model = asked.get("policy"), asked.get("model")
    if model is not None and not isinstance(model, str):
        raise ApiError(400, "'model' must be a string", param="model")
    if name not in POLICIES and not (name is None and "policy" in asked and model is not None):
        raise ApiError(400, f"policy {name!r} is not one of {', '.join(POLICIES)}", param="policy")
    gateway: Gateway = request.app.state.gateway
    manager = gateway.manager
    if model is None:
        manager.use(gateway.new_policy(name))
    else:
        others = {m: policy for m, policy in manager.policies.items() if m != model}
        manager.use(manager.policy, others if name is None else {**others, model: gateway.new_policy(name)})
    return JSONResponse(_policies(manager))


def _policies(manager: ControlPlaneManager) -> dict[str, Any]:
    return {
        "policy": manager.policy.name,
        "models": {model: policy.name for model, policy in manager.policies.items()},
        "policies": list(POLICIES),
    }


async def explain(request: Request) -> Response:
    """What was decided for a request; of those sent most recently, which are kept."""
    gateway: Gateway = request.app.state.gateway
    request_id = request.path_params["request_id"]
    attempts = gateway.decisions.documents(request_id)
    if not attempts:
        message = f"no decision for request {request_id} is kept; kept are the last {KEPT} that were sent"
        raise ApiError(404, message, code="decision_not_found")
    return JSONResponse({"schema": 1, "request_id": request_id, "attempts": attempts})


async def _json(request: Request) -> Any:
    try:
        return msgspec.json.decode(await request.body())
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None


routes = [
    Route("/admin/status", guarded(status)),
    Route("/admin/reload", guarded(reload), methods=["POST"]),
    Route("/admin/instances", guarded(list_instances)),
    Route("/admin/instances", guarded(add_instance), methods=["POST"]),
    Route("/admin/instances/{name:path}/drain", guarded(drain_instance), methods=["POST"]),
    Route("/admin/instances/{name:path}", guarded(remove_instance), methods=["DELETE"]),
    Route("/admin/decisions/{request_id:path}", guarded(explain)),
    Route("/admin/policy", guarded(get_policy)),
    Route("/admin/policy", guarded(put_policy), methods=["PUT"]),
]
