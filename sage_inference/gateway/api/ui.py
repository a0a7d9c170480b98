"""The page, its files, and its sessions. ``gateway.ui`` has what they are made of."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sage_inference.gateway.api import health
from sage_inference.gateway.api.admin import bounded, read_body
from sage_inference.gateway.api.status import address_of
from sage_inference.gateway.errors import ApiError, retry_after, wrong_admin_key
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.guard import credentials
from sage_inference.gateway.ui.files import PAGE, SECURITY, page_files
from sage_inference.gateway.ui.sessions import CODE_S, SESSION_S, TooManyGuesses

_LONGEST = 1000  # characters of a code or a key


def is_for_people(method: str, path: str, accept: str) -> bool:
    """Whether a request for ``/`` comes from a browser's address bar. Everything else gets JSON there."""
    return path == "/" and method in ("GET", "HEAD") and "text/html" in accept.lower()


async def root(request: Request) -> Response:
    accept = request.headers.get("accept", "")
    answer = await (page(request) if is_for_people(request.method, "/", accept) else health.info(request))
    answer.headers["vary"] = "Accept"
    return answer


async def page(request: Request) -> Response:
    return _file(request, PAGE)


async def file(request: Request) -> Response:
    name = request.path_params["name"]
    if not name:  # the addresses in the page are relative to /ui without a slash
        return RedirectResponse("../ui", 308)
    return _file(request, name)


def _file(request: Request, name: str) -> Response:
    found = page_files().get(name)
    if found is None:
        raise ApiError(404, f"the page has no file {name[:100]}; open /ui", code="unknown_route")
    headers = {**SECURITY, "etag": found.etag}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)


async def new_link(request: Request) -> Response:
    """A link to the page that opens one session."""
    gateway: Gateway = request.app.state.gateway
    code = gateway.sessions.new_code()
    answer = {"schema": 1, "url": f"{address_of(gateway)}/ui#code={code}", "code": code, "expires_s": CODE_S}
    return JSONResponse(answer, headers={"cache-control": "no-store"})


async def open_session(request: Request) -> Response:
    """A session for ``{"code": …}`` of a link, or for ``{"key": …}``, the admin key or the run's token."""
    gateway: Gateway = request.app.state.gateway
    kind, secret = _secret(await read_body(request))
    if kind == "code":
        token = gateway.sessions.open_with_code(secret)
        if token is None:
            message = f"the link was used already, or is older than {CODE_S:.0f} s; sage inference ui makes a new one"
            raise ApiError(403, message, "permission_error", "wrong_code")
    else:
        try:
            token = gateway.sessions.open_with_key(secret, gateway.guard.is_key_of_admin(secret.encode()))
        except TooManyGuesses as error:
            headers = retry_after(error.retry_after_s)
            raise ApiError(429, str(error), "rate_limit_error", "too_many_guesses", headers=headers) from None
        if token is None:
            raise wrong_admin_key()
    return JSONResponse(
        {"schema": 1, "token": token, "expires_s": SESSION_S}, 201, {"cache-control": "no-store"}
    )


def _secret(body: bytes) -> tuple[str, str]:
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        document = None
    if isinstance(document, dict) and len(document) == 1:
        [(kind, secret)] = document.items()
        if kind in ("code", "key") and isinstance(secret, str) and 0 < len(secret) <= _LONGEST:
            return kind, secret
    raise ApiError(400, 'the body must be {"code": CODE} or {"key": KEY}')


async def close_session(request: Request) -> Response:
    """End the session whose token the request shows."""
    gateway: Gateway = request.app.state.gateway
    for token in credentials(request.scope["headers"]):
        gateway.sessions.close(token)
    return JSONResponse({"ok": True})


routes = [
    Route("/", root),
    Route("/ui", page),
    Route("/ui/session", open_session, methods=["POST"]),
    Route("/ui/session", close_session, methods=["DELETE"]),
    Route("/ui/{name:path}", file),
]
admin_routes = [Route("/admin/ui/link", bounded(new_link), methods=["POST"])]
