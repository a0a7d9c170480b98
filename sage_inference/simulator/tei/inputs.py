"""Reads the texts of a request in the forms that TEI accepts."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_inference.simulator import tokens
from sage_inference.simulator.exchange import Request
from sage_inference.simulator.tei.errors import BodyError, TEIError, wrong_shape

_NO_VARIANT = "data did not match any variant of untagged enum"


def document_of(request: Request) -> dict[str, Any]:
    """The request's object. Raises ``BodyError``."""
    media_type = (request.header(b"content-type") or b"").split(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise BodyError(415, "Expected request with `Content-Type: application/json`")
    try:
        document = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyError(400, f"Failed to parse the request body as JSON: {error}") from None
    if not isinstance(document, dict):
        raise wrong_shape("invalid type, expected a map")
    return document


def texts_of(document: dict[str, Any], name: str) -> list[str]:
    """The texts in a text, a list of token ids, or a list of either. Raises ``BodyError`` or ``TEIError``."""
    value = _present(document, name)
    if isinstance(value, str):
        return [_not_empty(value)]
    if not isinstance(value, list):
        raise wrong_shape(f"{name}: {_NO_VARIANT} Input")
    if not value:
        raise TEIError("Empty", "`inputs` cannot be empty")
    if all(_is_id(one) for one in value):
        return [_not_empty(tokens.text_of(value))]
    if all(isinstance(one, str) for one in value):
        return [_not_empty(one) for one in value]
    if all(isinstance(one, list) and all(map(_is_id, one)) for one in value):
        return [_not_empty(tokens.text_of(one)) for one in value]
    raise wrong_shape(f"{name}: {_NO_VARIANT} Input")


def plain_texts(document: dict[str, Any], name: str, shown: str) -> list[str]:
    """The list of texts at ``name``. Raises ``TEIError``, which names it ``shown``, if it is empty."""
    value = _present(document, name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise wrong_shape(f"{name}: invalid type, expected a sequence of strings")
    if not value:
        raise TEIError("Empty", f"`{shown}` cannot be empty")
    return [_not_empty(one) for one in value]


def plain_text(document: dict[str, Any], name: str) -> str:
    value = _present(document, name)
    if not isinstance(value, str):
        raise wrong_shape(f"{name}: invalid type, expected a string")
    return _not_empty(value)


def sequences_of(document: dict[str, Any]) -> tuple[list[tuple[str, ...]], bool]:
    """The inputs of ``/predict``: texts and pairs, and whether they are a batch.

    A flat list of two texts is one pair, not two texts.
    """
    value = _present(document, "inputs")
    if isinstance(value, str):
        return [(_not_empty(value),)], False
    if not isinstance(value, list):
        raise wrong_shape(f"inputs: {_NO_VARIANT} PredictInput")
    if not value:
        raise TEIError("Empty", "`inputs` cannot be empty")
    batch = isinstance(value[0], list)
    found = [_sequence(one) for one in (value if batch else [value])]
    return found, batch


def flag(document: dict[str, Any], name: str, default: bool) -> bool:
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong_shape(f"{name}: invalid type, expected a boolean")
    return value


def _sequence(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and len(value) in (1, 2) and all(isinstance(one, str) for one in value):
        return tuple(_not_empty(one) for one in value)
    raise wrong_shape(f"inputs: {_NO_VARIANT} Sequence")


def _present(document: dict[str, Any], name: str) -> Any:
    if document.get(name) is None:
        raise wrong_shape(f"missing field `{name}`")
    return document[name]


def _not_empty(text: str) -> str:
    if not text:
        raise TEIError("Empty", "Input validation error: `inputs` cannot be empty")
    return text


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
