"""The routes that are relayed, found by the target of a request."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import httptools

from sage_inference.requests.response_routes import PREFIX as RESPONSES
from sage_inference.requests.response_routes import response_route
from sage_inference.requests.routes import ROUTES, Route
from sage_inference.wire.request_guard import ProblemKind, RequestProblem

_BY_PATH = {path.encode(): (route.method.encode(), route) for path, route in ROUTES.items()}


def route_of(method: bytes, url: bytes) -> tuple[Route | None, bytes]:
    """The relayed route of a request, None for one that the application answers; and the host of an absolute target.

    Raises ``RequestProblem`` or ``HttpParserError`` for a target that is neither a path nor absolute (http://host/path).
    """
    host = b""
    found = _BY_PATH.get(url)
    if found is None:
        path, host = _path_and_host(url)
        found = _BY_PATH.get(path)
        if found is None:
            route = response_route(method.decode("latin-1"), path) if path.startswith(RESPONSES) else None
            return route, host
    expected, relayed = found
    return relayed if method == expected else None, host


def _path_and_host(url: bytes) -> tuple[bytes, bytes]:
    path, _, _ = url.partition(b"?")
    host = b""
    if path[:1] != b"/" and path != b"*":
        parsed = httptools.parse_url(url)
        if (parsed.schema or b"").lower() not in (b"http", b"https") or not parsed.host:
            raise RequestProblem(ProblemKind.BAD_FRAMING)
        path = parsed.path or b"/"
        host = b"[%b]" % parsed.host if b":" in parsed.host else parsed.host
        if parsed.port is not None:
            host = b"%b:%d" % (host, parsed.port)
    if b"%" in path:  # the application decodes escapes, and a path must not have two meanings
        path = unquote_to_bytes(path)
    return path, host
