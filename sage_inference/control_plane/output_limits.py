"""How much one request may ask an engine to generate, where the settings limit it."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.lenient import UNREADABLE, decoded
from sage_inference.control_plane.refusal import Refusal, Why

# Which fields ask for how much, in all the protocols that are relayed.
_ANSWERS = ("n", "best_of")
_TOKENS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_Asked = msgspec.defstruct(
    "_Asked",
    [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in (*_ANSWERS, *_TOKENS)],
    gc=False,
)
_LONGEST = 400  # bytes of a value: longer numbers are above any limit
_decode = msgspec.json.Decoder(_Asked).decode


def check_output(body: bytes, limits: LimitSettings) -> None:
    """Raises ``Refusal`` for a field above its limit. A field that is absent is the engine's to decide on."""
    try:
        asked = decoded(_decode, body)
    except msgspec.ValidationError:
        return  # no object: it asks for nothing
    for name in _ANSWERS:
        _check(name, getattr(asked, name), limits.max_n, "limits.max_n")
    for name in _TOKENS:
        _check(name, getattr(asked, name), limits.max_completion_tokens, "limits.max_completion_tokens")


def _check(name: str, field: msgspec.Raw | msgspec.UnsetType, limit: int | None, setting: str) -> None:
    if limit is None or isinstance(field, msgspec.UnsetType):
        return
    value = _value(field)
    if _number(value) > limit:
        raise Refusal(Why.BAD_REQUEST, f"'{name}' is {value}, more than {limit} ({setting})", name)


def _value(field: msgspec.Raw) -> Any:
    """The field's value; of a long one only what matters here, because lists may be endless."""
    raw = memoryview(field)
    if len(raw) <= _LONGEST:
        try:
            return msgspec.json.decode(raw)
        except UNREADABLE:  # a text with half a surrogate pair
            return None
    return math.inf if bytes(raw[:_LONGEST]).strip(b'" ').isdigit() else None


def _number(value: Any) -> float:
    """The number an engine would read: vLLM takes "5" for 5 too. What is none asks for nothing."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return 0.0
