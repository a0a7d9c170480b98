"""What is read from a request's body, and the one field the gateway ever changes in it: ``model``."""

from __future__ import annotations

import json
import re
from operator import attrgetter
from typing import Any

import msgspec

from sage_inference.control_plane.refusal import Refusal, Why
from sage_inference.control_plane.routes import ROUTES, Body, Route

_PROMPTS = ("messages", "input", "inputs", "prompt", "prompt_embeds", "query")
_BEFORE = ("tools", "system", "instructions")  # what engines put before the prompt
_READ = (*_PROMPTS, *_BEFORE, "stream", "user")
_FIELDS = ("model", *_READ)
_USER = 200  # bytes of a user that tell tenants apart
_UNSET, _RAW = msgspec.UNSET, msgspec.Raw
_JSON = Body.JSON
_Absent = msgspec.UnsetType
# Only presence and the model's type are checked: the engine checks the rest, and says it better.
_Head = msgspec.defstruct(
    "_Head",
    [
        ("model", str | None | _Absent, _UNSET),
        *((name, msgspec.Raw | _Absent, _UNSET) for name in _READ),
    ],
    gc=False,
)
_Loose = msgspec.defstruct(
    "_Loose",
    [
        ("model", str | None | _Absent, _UNSET),
        *((name, Any | _Absent, _UNSET) for name in _READ),
    ],
)
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
# What of a body is looked at in the usual case: for each route its first prompt, and all that is read beside it.
_usual = {
    route.path: attrgetter((route.any_of or _PROMPTS)[0], *_BEFORE, "model", "stream", "user")
    for route in ROUTES.values()
}
_WHERE = re.compile(r" - at `\$\.?([^`]*)`$")
_MULTIPART_MODEL = re.compile(
    rb'content-disposition: form-data; name="?model"?\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)\r\n', re.I
)


class Asked(msgspec.Struct, gc=False):
    """What a body asks for. ``prompt`` is the part that the engine reads, as JSON; ``user`` is "" for nobody."""

    model: str | None
    prompt: bytes = b""
    streams: bool = False
    user: str = ""


def read(route: Route, body: bytes) -> Asked:
    """What the body asks for. Raises ``Refusal`` for what no engine could answer."""
    if route.body is _JSON:
        head = _decode(body)
        first, tools, system, instructions, model, stream, user = _usual[route.path](head)
        if type(first) is _RAW and tools is system is instructions is _UNSET:
            prompt = bytes(first)
        else:
            prompt = _prompt(route, head, body)
        return Asked(
            None if model is _UNSET else model or None,
            prompt,
            stream is not _UNSET and _raw(stream) == b"true",
            "" if user is _UNSET else _text(_raw(user)),
        )
    match = _MULTIPART_MODEL.search(body) if route.body is Body.MULTIPART else None
    # Sound: how many bytes it has tells nothing of the work.
    return Asked(match[1].decode("utf-8", "replace") if match else None)


def _prompt(route: Route, head: Any, body: bytes) -> bytes:
    """The values that make up the prompt. Raises ``Refusal`` where the route's own fields are missing."""
    for name in route.any_of or _PROMPTS:
        found = getattr(head, name)
        if found is not _UNSET:
            break
    else:
        if not route.any_of:
            return body
        wanted = " or ".join(f"'{name}'" for name in route.any_of)
        raise Refusal(Why.BAD_REQUEST, f"the body of {route.path} needs {wanted}", route.any_of[0])
    if head.tools is _UNSET and head.system is _UNSET and head.instructions is _UNSET:
        return _raw(found) or body
    return b"".join([_raw(getattr(head, name)) for name in _BEFORE]) + _raw(found)


def _raw(value: Any) -> bytes:
    """The JSON of a field; empty where it is absent or was read leniently."""
    return bytes(value) if type(value) is _RAW else b""


def _text(raw: bytes) -> str:
    return raw[1:-1][:_USER].decode("utf-8", "replace") if raw[:1] == b'"' else ""


def _decode(body: bytes) -> Any:
    try:
        return _decode_head(body)
    except msgspec.ValidationError as error:
        where = _WHERE.search(str(error))
        said = str(error)[: where.start()] if where else str(error)
        field = where[1] if where and where[1] else None
        place = f"'{field}'" if field else "the body"
        message = f"{place}: {said[0].lower()}{said[1:]}".replace("`", "")
        raise Refusal(Why.BAD_REQUEST, message, field) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _decode_leniently(body, error)


def _decode_leniently(body: bytes, error: Exception) -> Any:
    document = read_leniently(body, error)
    if isinstance(document, dict):  # msgspec can't look at names that are half a surrogate pair
        document = {name: document[name] for name in _FIELDS if name in document}
    try:
        return msgspec.convert(document, _Loose)
    except msgspec.ValidationError:
        raise Refusal(Why.BAD_REQUEST, "'model' must be a string, and the body an object", "model") from None


def read_leniently(body: bytes, error: Exception) -> Any:
    """Python's own reader takes what msgspec is too strict for, such as half a surrogate pair."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        # A text may hold the caller's data; msgspec's positions do not.
        said = str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__
        raise Refusal(Why.BAD_REQUEST, f"the body is not JSON: {said}") from None


def with_model(route: Route, body: bytes, model: str) -> bytes:
    """The body naming ``model``; every other value keeps its bytes."""
    if route.body is Body.MULTIPART:
        match = _MULTIPART_MODEL.search(body)
        if match is None:
            return body
        return body[: match.start(1)] + model.encode() + body[match.end(1) :]
    try:
        fields = _decode_raw(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # What was skipped when only the head was read: names of fields that are no UTF-8, for one.
        return json.dumps({**read_leniently(body, error), "model": model}, ensure_ascii=True).encode()
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)
