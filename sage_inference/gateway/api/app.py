"""The application that answers all other routes: models, health, metrics, admin, and errors for unknown paths."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_inference.gateway.api import (
    admin,
    engines,
    health,
    keys,
    live,
    metrics,
    model_documents,
    models,
    ui,
    usage,
)
from sage_inference.gateway.api.access import RELAYED, TENANT, AccessMiddleware
from sage_inference.gateway.api.cors import CorsMiddleware
from sage_inference.gateway.api.near_routes import NearRoutes
from sage_inference.gateway.api.relayed import Relayed
from sage_inference.gateway.api.reloading import Reloaded
from sage_inference.gateway.error_formats import format_of
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.fleet import Fleet
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.in_process import InProcessClient
from sage_inference.gateway.key_limits.budget import KeyBudget
from sage_inference.gateway.key_limits.headers import rate_headers
from sage_inference.gateway.live.feed import LiveFeed
from sage_inference.gateway.live.gpus import GpuReadings
from sage_inference.gateway.managed.engine_set import ManagedEngines
from sage_inference.gateway.relay.heads import given_id
from sage_inference.requests.response_routes import METHODS
from sage_inference.requests.routes import ROUTES

# The relayed routes and their methods.
_RELAYED = {**{path: (route.method,) for path, route in ROUTES.items()}, **METHODS}
_REQUEST_ID = "sage_request_id"  # its place in a request's scope
_MOST_SHOWN = 200  # characters of an unknown path in its error


def error_response(error: ApiError, scope: Scope, path: str | None = None) -> Response:
    """The error as a response. ``path`` decides on its shape; by default that is the request's own."""
    shape, request_id = format_of(path or _path(scope)), scope.get(_REQUEST_ID, b"")
    pairs = (*error.headers, *shape.headers(request_id))
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
    return Response(shape.body(error, request_id), error.status, headers, media_type="application/json")


class Identified:
    """Gives each request an id, and its answer the same one.

    It is outside of the application, so that answers to preflights and after crashes have an id too. A relayed route
    finds the id in the request's headers and sends it to the engine.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self.app = app
        self.gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = given_id(scope["headers"])
        if not request_id:
            # Not one of the gateway's ids, because a relayed route would treat that as another request's.
            request_id = b"req-" + token_hex(10).encode()
            scope = {**scope, "headers": [*scope["headers"], (b"x-request-id", request_id)]}
        scope[_REQUEST_ID] = request_id

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [h for h in message.get("headers", ()) if h[0].lower() != b"x-request-id"]
                message["headers"] = [*others, (b"x-request-id", request_id)]
            await send(message)

        await self.app(scope, receive, stamped)


class GuardMiddleware:
    """Checks host, origin and key, as the relay does for its routes."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self.app = app
        self.gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            path = _path(scope)
            accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
            checked = "/ui" if ui.is_for_people(scope["method"], path, accept) else path
            tenant = self.gateway.guard.check(checked, scope["headers"])
            scope[TENANT] = tenant or None
            scope[admin.CHECKED_PATH] = path
        except ApiError as error:
            await error_response(error, scope)(scope, receive, send)
        else:
            budget = self.gateway.budgets.of(tenant)
            await self.app(scope, receive, send if budget is None else _with_limits(budget, scope, send))


def _with_limits(budget: KeyBudget, scope: Scope, send: Send) -> Send:
    """``send`` with the headers that report the limits of the caller's key. The relay adds them by itself."""

    async def limited(message: Message) -> None:
        if message["type"] == "http.response.start" and not scope.get(RELAYED):
            message["headers"] = [*message.get("headers", ()), *rate_headers(budget, _path(scope))]
        await send(message)

    return limited


def _path(scope: Scope) -> str:
    """The path without the prefix under which the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error, request.scope)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        return _unknown_route(request)
    if error.status_code == 405:
        allow = ", ".join(_methods_of(request))
        message = f"{request.method} is not for {path}; it takes {allow}"
        mended = ApiError(405, message, code="method_not_allowed", headers=((b"allow", allow.encode()),))
    else:
        mended = ApiError(error.status_code, error.detail)
    return error_response(mended, request.scope)


def _methods_of(request: Request) -> list[str]:
    """The methods of all routes of a path. Starlette's own error has those of the first route only."""
    path = _path(request.scope)
    routes = [r for r in request.app.routes if isinstance(r, Route) and r.path_regex.match(path)]
    return sorted({method for route in routes for method in route.methods or ()})


def _unknown_route(request: Request) -> Response:
    scope = request.scope
    path, root = _path(scope), scope.get("root_path", "")
    routes: NearRoutes = request.app.state.near_routes
    near = routes.near(path)
    shown = request.url.path if len(path) <= _MOST_SHOWN else f"{request.url.path[:_MOST_SHOWN]}..."
    hint = f"did you mean {root}{near}?" if near else "see / for those there are"
    error = ApiError(404, f"no route {shown}; {hint}", code="unknown_route")
    return error_response(error, scope, near)


async def _crashed(request: Request, error: Exception) -> Response:
    failed = ApiError(500, "the gateway failed on this request; see its log", "internal_error")
    return error_response(failed, request.scope)


def make_app(
    gateway: Gateway,
    fleet: Fleet,
    callers: InProcessClient,
    reload: Callable[[], Reloaded],
    feed: LiveFeed,
    managed: ManagedEngines | None = None,
) -> ASGIApp:
    """``reload`` reads the configuration again and applies it, and may raise ``ConfigError``.

    In the gateway's own server, relayed routes do not reach the application. It has them for other ASGI servers.
    """
    middleware = [
        Middleware(AccessMiddleware, gateway=gateway),
        Middleware(CorsMiddleware, gateway=gateway, error_response=error_response),
        Middleware(GuardMiddleware, gateway=gateway),
    ]
    app = Starlette(
        routes=[
            *ui.routes,
            Route("/health", health.health),
            Route("/health/live", health.live),
            Route("/health/ready", health.ready),
            Route("/metrics", metrics.metrics),
            Route("/v1/models", models.list_models),
            Route("/v1/models/{model_id:path}", models.get_model),
            *admin.routes,
            *engines.routes,
            *keys.routes,
            *live.routes,
            *model_documents.routes,
            *ui.admin_routes,
            *usage.routes,
            *(Route(path, Relayed(gateway, callers, path), methods=[*m]) for path, m in _RELAYED.items()),
        ],
        middleware=middleware,
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _crashed},
    )
    app.state.gateway = gateway
    app.state.fleet = fleet
    app.state.engines = managed
    app.state.reload = reload
    app.state.feed = feed
    app.state.gpus = GpuReadings()
    app.state.near_routes = NearRoutes(route.path for route in app.routes if isinstance(route, Route))
    app.router.redirect_slashes = False
    return Identified(app, gateway)
