"""Reads the fields of a request's body, and changes the only one that the gateway ever changes: ``model``."""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from sage_inference.requests.density import LARGE, check_density
from sage_inference.requests.lenient import UNREADABLE, decoded, decoded_mended
from sage_inference.requests.multipart import model_field
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.requests.routes import ROUTES, Body, Route
from sage_inference.types import RequestType

_PROMPTS = ("messages", "input", "inputs", "prompt", "prompt_embeds", "query")
_BEFORE = ("tools", "system", "instructions")  # engines put these before the prompt
_READ = (*_PROMPTS, *_BEFORE, "stream", "user", "n")
_USER = 200  # bytes of a user by which tenants differ
_MODEL = 1024  # characters of a model's name, which is looked up, logged and quoted
_UNSET, _RAW = msgspec.UNSET, msgspec.Raw
_NOTHING_BEFORE = (_UNSET,) * len(_BEFORE)
_JSON = Body.JSON
_GENERATE = RequestType.LLM_GENERATE
_MOST_COMMAS = 1024  # in a list of prompts that are counted: each may be the end of one, at 50 ns
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_Absent = msgspec.UnsetType
# Only presence and the model's type are checked. The engine checks the rest, and its errors are better.
_Head = msgspec.defstruct(
    "_Head",
    [
        ("model", Annotated[str, msgspec.Meta(max_length=_MODEL)] | None | _Absent, _UNSET),
        *((name, msgspec.Raw | _Absent, _UNSET) for name in _READ),
    ],
    gc=False,
)
_decode_head = msgspec.json.Decoder(_Head).decode


class _RawModel(msgspec.Struct, gc=False):
    model: msgspec.Raw | msgspec.UnsetType = _UNSET


_decode_raw_model = msgspec.json.Decoder(_RawModel).decode
# The fields that are read in the usual case: the first prompt of each route, and all fields beside the prompt.
_usual = {
    route.path: attrgetter((route.any_of or _PROMPTS)[0], *_BEFORE, "model", "stream", "user", "n")
    for route in ROUTES.values()
}
_WHERE = re.compile(r" - at `\$\.?([^`]*)`$")
_ENDS = re.compile(rb"\s*\}")
_MOST_PLACES = 3  # in a body that look like its model


class Asked(msgspec.Struct, gc=False):
    """The fields of a body. ``prompt`` is the part that the engine reads, as JSON. ``user`` is "" if there is none."""

    model: str | None
    prompt: bytes = b""
    streams: bool = False
    user: str = ""
    choices: int = 1  # answers to one request, which share its tokens; 0: their number is not known


def read(route: Route, body: bytes) -> Asked:
    """The fields of a body. Raises ``Rejection`` for a body that no engine could answer."""
    if route.body is _JSON:
        if len(body) > LARGE:
            check_density(body)
        try:
            head = _decode_head(body)
        except UNREADABLE as error:
            head = _mended(body, error)
        first, tools, system, instructions, model, stream, user, n = _usual[route.path](head)
        if type(first) is _RAW and (tools, system, instructions) == _NOTHING_BEFORE:
            prompt = bytes(first)
        else:
            prompt = _prompt(route, head, body)
        asked = Asked(
            None if model is _UNSET else model or None,
            prompt,
            stream is not _UNSET and bytes(stream) == b"true",
            "" if user is _UNSET else _text(user),
        )
        if n is not _UNSET:
            asked.choices = _count(n)
        if route.type is _GENERATE and prompt[:1] == b"[":
            asked.choices *= _prompts(prompt)
        return asked
    place = model_field(body) if route.body is Body.MULTIPART else None
    if place is None:
        return Asked(None)
    if place[1] - place[0] > _MODEL:
        raise Rejection(Reason.BAD_REQUEST, f"'model' is longer than {_MODEL} characters", "model")
    # Sound: its number of bytes does not show the work that it takes.
    return Asked(body[place[0] : place[1]].decode("utf-8", "replace"))


def _prompt(route: Route, head: Any, body: bytes) -> bytes:
    """The values that make up the prompt. Raises ``Rejection`` if the route's own fields are missing."""
    for name in route.any_of or _PROMPTS:
        found = getattr(head, name)
        if found is not _UNSET:
            break
    else:
        if not route.any_of:
            return body
        wanted = " or ".join(f"'{name}'" for name in route.any_of)
        raise Rejection(Reason.BAD_REQUEST, f"the body of {route.path} needs {wanted}", route.any_of[0])
    if head.tools is _UNSET and head.system is _UNSET and head.instructions is _UNSET:
        return _raw(found) or body
    return b"".join([_raw(getattr(head, name)) for name in _BEFORE]) + _raw(found)


def _raw(value: Any) -> bytes:
    """The JSON of a field; empty if it is absent."""
    return bytes(value) if type(value) is _RAW else b""


def _count(n: Any) -> int:
    """The number of choices that ``n`` asks for; 0 if engines may read it in different ways."""
    raw = bytes(n)
    if raw == b"null":
        return 1
    try:
        return max(1, int(raw.strip(b'"')))
    except ValueError:
        return 0


def _prompts(prompts: bytes) -> int:
    """The number of prompts in a list: each gets an answer of its own. A list of token ids is one prompt."""
    first = prompts[1:].lstrip()[:1]
    if first not in (b'"', b"["):
        return 1
    return len(_decode_list(prompts)) if prompts.count(b",") <= _MOST_COMMAS else 0


def _text(value: Any) -> str:
    """The begin of a text; "" for a value of another type."""
    raw = memoryview(value)
    begin = bytes(raw[: min(len(raw) - 1, _USER + 1)])
    return begin[1:].decode("utf-8", "replace") if begin[:1] == b'"' else ""


def _mended(body: bytes, unreadable: Exception) -> Any:
    """The fields of a body that the decoder found ``unreadable``. Raises ``Rejection``."""
    try:
        if isinstance(unreadable, msgspec.ValidationError):
            raise unreadable
        return decoded_mended(_decode_head, body, unreadable)
    except msgspec.ValidationError as error:
        where = _WHERE.search(str(error))
        said = str(error)[: where.start()] if where else str(error)
        field = where[1] if where and where[1] else None
        place = f"'{field}'" if field else "the body"
        message = f"{place}: {said[0].lower()}{said[1:]}".replace("`", "")
        raise Rejection(Reason.BAD_REQUEST, message, field) from None


def with_model(route: Route, body: bytes, model: str) -> bytes:
    """The body with ``model`` as its model; every other byte stays as it came."""
    if route.body is Body.MULTIPART:
        place = model_field(body)
        return body if place is None else body[: place[0]] + model.encode() + body[place[1] :]
    named = decoded(_decode_raw_model, body).model
    name = msgspec.json.encode(model)
    if isinstance(named, msgspec.UnsetType):
        start = body.index(b"{") + 1
        comma = b"" if _ENDS.match(body, start) else b","
        return b"".join((body[:start], b'"model":', name, comma, memoryview(body)[start:]))  # one copy
    replaced = _replaced(body, bytes(named), name)
    if replaced is None:
        message = "'model' can't be replaced by the name it stands for; write it as the body's first field"
        raise Rejection(Reason.BAD_REQUEST, message, "model")
    return replaced


def _replaced(body: bytes, named: bytes, name: bytes) -> bytes | None:
    """The body with ``name`` as its model in place of ``named``; None if that is not found.

    Fields of other objects may look the same. The right one is found by reading the model of the changed body.
    """
    looks = re.compile(rb'"model"\s*:\s*(%b)(?=[\s,}])' % re.escape(named))
    for found, _ in zip(looks.finditer(body), range(_MOST_PLACES), strict=False):
        changed = body[: found.start(1)] + name + body[found.end(1) :]
        if decoded(_decode_raw_model, changed).model == msgspec.Raw(name):
            return changed
    return None
