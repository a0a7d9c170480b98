"""Routes that name a response which an engine stores: ``/v1/responses/{response_id}``, and what is below it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from sage_inference.requests.routes import Body, Route
from sage_inference.types import RequestType

PREFIX = b"/v1/responses/"
_ONE = "/v1/responses/{response_id}"
_CANCEL, _ITEMS = f"{_ONE}/cancel", f"{_ONE}/input_items"
METHODS = {_ONE: ("GET", "DELETE"), _CANCEL: ("POST",), _ITEMS: ("GET",)}  # by template
# Ids of any other form are not stored, so they reach no engine. Dots alone would mean another path.
_ID = re.compile(r"(?!\.+$)[A-Za-z0-9._:~-]{1,256}")


@dataclass(frozen=True, slots=True)
class ResponseRoute(Route):
    """``path`` is the template, so that metrics have one line for all responses."""

    response_id: str = ""


def is_response_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def response_route(method: str, path: bytes) -> ResponseRoute | None:
    """The route of a path that begins with ``PREFIX``, with its escapes read; None if there is none."""
    name, _, tail = path[len(PREFIX) :].partition(b"/")
    template = f"{_ONE}/{tail.decode('latin-1')}" if b"/" in path[len(PREFIX) :] else _ONE
    if not name or method not in METHODS.get(template, ()):
        return None
    response_id = name.decode("utf-8", "replace")
    return ResponseRoute(
        template,
        RequestType.RESPONSES,
        names_model=False,
        body=Body.NONE,
        method=method,
        engine_path=template.replace("{response_id}", quote(response_id, safe="")),
        response_id=response_id,
    )
