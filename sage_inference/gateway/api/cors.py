"""The answers that browsers need before and after a page's request (CORS)."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_inference.gateway.cors import VARY, grants
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.gateway import Gateway

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
# Browsers keep the answer to a preflight for so long. A removed origin can send requests until then.
_MAX_AGE_S = 600
_VARY_OF_PREFLIGHT = "Origin, Access-Control-Request-Headers, Access-Control-Request-Private-Network"


class CorsMiddleware:
    """Answers pages of the origins in the present settings, which a reload may change.

    Starlette's own middleware is not used, because its versions treat private networks in different ways, and it
    grants a private network to origins that it refuses.
    """

    def __init__(
        self, app: ASGIApp, gateway: Gateway, error_response: Callable[[ApiError, Scope], Response]
    ) -> None:
        self._app = app
        self._gateway = gateway
        self._error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        if scope["type"] != "http" or not gateway.settings.server.cors_origins:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        allowed = gateway.guard.allowed_origin(origin) if origin is not None else None
        if (
            scope["method"] == "OPTIONS"
            and origin is not None
            and b"access-control-request-method" in headers
        ):
            if allowed is None:
                answer = self._error_response(_not_allowed(origin), scope)
            else:
                answer = _preflight(allowed, headers)
            await answer(scope, receive, send)
            return

        async def granting(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A relayed route has added its own.
                others = [h for h in message.get("headers", ()) if not _is_grant(h)]
                message["headers"] = [*others, *(grants(allowed) if allowed is not None else (VARY,))]
            await send(message)

        await self._app(scope, receive, granting)


def _preflight(allowed: bytes, headers: dict[bytes, bytes]) -> Response:
    """The answer to a preflight. The browser compares it with the request that the page wants to send."""
    granted = {
        "access-control-allow-origin": allowed.decode("latin-1"),
        "access-control-allow-methods": _METHODS,
        "access-control-max-age": str(_MAX_AGE_S),
        "vary": _VARY_OF_PREFLIGHT,
    }
    # Each header is named, because in a browser ``*`` does not include ``authorization``.
    if wanted := headers.get(b"access-control-request-headers"):
        granted["access-control-allow-headers"] = wanted.decode("latin-1")
    if headers.get(b"access-control-request-private-network", b"").lower() == b"true":
        granted["access-control-allow-private-network"] = "true"
    return Response("OK", 200, granted, media_type="text/plain")


def _not_allowed(origin: bytes) -> ApiError:
    text = origin.decode("latin-1")[:100]
    message = f"Origin {text!r} may not call this gateway; allow it with server.cors_origins"
    return ApiError(403, message, "permission_error")


def _is_grant(header: tuple[bytes, bytes]) -> bool:
    name, value = header
    return name.lower().startswith(b"access-control-") or (name.lower(), value) == VARY
