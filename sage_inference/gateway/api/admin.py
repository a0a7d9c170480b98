"""``/admin``: status, instances, policy and reload at run time.

The guard accepts only the run's token and the admin key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sage_inference.config.check import check_ca_file, name_of
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import parse_instance
from sage_inference.control_plane.policies import POLICIES
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.gateway import errors
from sage_inference.gateway.api.status import instance_document, status_document
from sage_inference.gateway.coded_body import codings_of, decoder_for, refusal_of
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.fleet import Fleet
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.guard import is_admin_path
from sage_inference.telemetry.decisions.log import KEPT
from sage_inference.wire.content_coding import CodingError, TooLongError, decoded

_BODY_BYTES = 1 << 20

CHECKED_PATH = "sage.checked_path"  # in a scope: the path that the guard let pass

Handler = Callable[[Request], Awaitable[Response]]


def bounded(handler: Handler) -> Handler:
    """The handler with the whole body, of at most 1 MiB, in ``request.state.body``."""

    async def read(request: Request) -> Response:
        # In a mounted application, its router and the guard each remove the prefix. If they ever disagree, the
        # guard may have checked another path, so the route answers nothing.
        if not is_admin_path(request.scope[CHECKED_PATH]):
            raise errors.no_admin_key()
        request.state.body = await read_body(request)
        return await handler(request)

    return read


async def read_body(request: Request) -> bytes:
    """The decoded body. Raises ``ApiError`` 413 as soon as it is known to be too long; the server drops the rest."""
    codings = codings_of(request.scope["headers"])
    if codings:
        decoder_for(codings, _BODY_BYTES)  # 415 before the body is read
    # Our own parser has checked the length, but not every server under which the application is mounted.
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() and len(declared) < 20 else 0
    pieces: list[bytes] = []
    try:
        if size <= _BODY_BYTES:
            size = 0
            async for piece in request.stream():
                size += len(piece)
                if size > _BODY_BYTES:
                    break
                pieces.append(piece)
    except ClientDisconnect:
        raise ApiError(400, "the caller left before its request ended") from None
    if size > _BODY_BYTES:
        raise errors.admin_body_too_large(_BODY_BYTES)
    body = b"".join(pieces)
    return await asyncio.to_thread(_decoded, codings, body) if codings else body


def _decoded(codings: tuple[bytes, ...], body: bytes) -> bytes:
    """Decode the body. Must not run on the event loop: see ``gateway.coded_body``."""
    try:
        return decoded(codings, body, _BODY_BYTES)
    except TooLongError:
        raise errors.admin_body_too_large(_BODY_BYTES) from None
    except CodingError as error:
        raise refusal_of(error, _BODY_BYTES) from None


async def status(request: Request) -> Response:
    state = request.app.state
    return JSONResponse(status_document(state.gateway, state.engines))


async def reload(request: Request) -> Response:
    try:
        changes = request.app.state.reload()
    except ConfigError as error:
        raise ApiError(400, str(error), code="bad_config") from None
    return JSONResponse({"ok": True, **asdict(changes)})


async def list_instances(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    return JSONResponse({"instances": [instance_document(gateway, e) for e in gateway.engines.values()]})


async def add_instance(request: Request) -> Response:
    fleet: Fleet = request.app.state.fleet
    try:
        settings = parse_instance(_json(request))
        check_ca_file(settings)
    except ConfigError as error:
        raise ApiError(400, str(error), param=error.key) from None
    name = name_of(settings)
    if name in fleet.gateway.engines:
        raise ApiError(
            409, f"instance {name} exists already; remove it first, or give another name", param="name"
        )
    return JSONResponse(instance_document(fleet.gateway, fleet.add(settings)), 201)


async def remove_instance(request: Request) -> Response:
    fleet: Fleet = request.app.state.fleet
    name = request.path_params["name"]
    if source := fleet.sourced.owner_of(name):
        problem = f"instance {name} is in the list of {source}: take it out there, or drain it here"
        raise ApiError(409, problem, code="instance_of_source")
    return _done(request, fleet.remove(name))


async def drain_instance(request: Request) -> Response:
    return _done(request, request.app.state.fleet.drain(request.path_params["name"]))


async def resume_instance(request: Request) -> Response:
    fleet: Fleet = request.app.state.fleet
    name = request.path_params["name"]
    if fleet.sourced.leaves(name):
        problem = f"instance {name} has left the list of {fleet.sourced.owner_of(name)}: put it back there"
        raise ApiError(409, problem, code="instance_of_source")
    found = name in fleet.gateway.engines
    if found:
        fleet.undrain(name)
    return _done(request, found)


def _done(request: Request, found: bool) -> Response:
    if not found:
        name, known = request.path_params["name"], ", ".join(request.app.state.gateway.engines) or "none"
        raise ApiError(404, f"no instance {name}; there are: {known}", code="instance_not_found")
    return JSONResponse({"ok": True})


async def get_policy(request: Request) -> Response:
    return JSONResponse(_policies(request.app.state.gateway.scheduler))


async def put_policy(request: Request) -> Response:
    """Set the policy: ``{"policy": NAME}`` for all models, ``{"model": M, "policy": NAME}`` for one.

    A policy of null removes the model's own.
    """
    document = _json(request)
    wanted = document if isinstance(document, dict) else {}
    name, model = wanted.get("policy"), wanted.get("model")
    if model is not None and not isinstance(model, str):
        raise ApiError(400, "'model' must be a string", param="model")
    if name not in POLICIES and not (name is None and "policy" in wanted and model is not None):
        raise ApiError(400, f"policy {name!r} is not one of {', '.join(POLICIES)}", param="policy")
    gateway: Gateway = request.app.state.gateway
    scheduler = gateway.scheduler
    if model is None:
        scheduler.use(gateway.new_policy(name))
    else:
        others = {m: policy for m, policy in scheduler.policies.items() if m != model}
        scheduler.use(
            scheduler.policy, others if name is None else {**others, model: gateway.new_policy(name)}
        )
    return JSONResponse(_policies(scheduler))


def _policies(scheduler: Scheduler) -> dict[str, Any]:
    return {
        "policy": scheduler.policy.name,
        "models": {model: policy.name for model, policy in scheduler.policies.items()},
        "policies": list(POLICIES),
    }


async def explain(request: Request) -> Response:
    """The decisions on a request, if it is one of the last ``KEPT`` that were sent."""
    gateway: Gateway = request.app.state.gateway
    request_id = request.path_params["request_id"]
    attempts = gateway.decisions.documents(request_id)
    if not attempts:
        message = (
            f"no decision for request {request_id} is kept; kept are the last {KEPT} that were sent. "
            "A request that still waits has no decision yet: ask again when it was sent"
        )
        raise ApiError(404, message, code="decision_not_found")
    return JSONResponse({"schema": 1, "request_id": request_id, "attempts": attempts})


def _json(request: Request) -> Any:
    try:
        return msgspec.json.decode(request.state.body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None


routes = [
    Route("/admin/status", bounded(status)),
    Route("/admin/reload", bounded(reload), methods=["POST"]),
    Route("/admin/instances", bounded(list_instances)),
    Route("/admin/instances", bounded(add_instance), methods=["POST"]),
    Route("/admin/instances/{name:path}/drain", bounded(drain_instance), methods=["POST"]),
    Route("/admin/instances/{name:path}/resume", bounded(resume_instance), methods=["POST"]),
    Route("/admin/instances/{name:path}", bounded(remove_instance), methods=["DELETE"]),
    Route("/admin/decisions/{request_id:path}", bounded(explain)),
    Route("/admin/policy", bounded(get_policy)),
    Route("/admin/policy", bounded(put_policy), methods=["PUT"]),
]
