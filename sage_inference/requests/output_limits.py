"""The length of the answer that a request asks for, and its limits where the settings have some."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from sage_inference.config.settings import LimitSettings
from sage_inference.requests.lenient import UNREADABLE, decoded
from sage_inference.requests.rejection import Reason, Rejection

# The fields that ask for a number of answers, or of tokens, in all protocols that are relayed.
_ANSWERS = ("n", "best_of")
_TOKENS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict", "num_predict")
_Asked = msgspec.defstruct(
    "_Asked",
    [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in (*_ANSWERS, *_TOKENS)],
    gc=False,
)
_MOST = 1 << 31  # tokens; no context is longer
_LONGEST = 400  # bytes of a value; longer numbers are above any limit
_decode = msgspec.json.Decoder(_Asked).decode


def asked_output(body: bytes, limits: LimitSettings) -> int:
    """The tokens of an answer that a body asks for, the most of several fields; 0 if there is none.

    The engine decides on an absent field. Raises ``Rejection`` for a field above its limit.
    """
    try:
        asked = decoded(_decode, body)
    except msgspec.ValidationError:
        return 0  # no object: it asks for nothing
    for name in _ANSWERS:
        _asked(name, getattr(asked, name), limits.max_n, "limits.max_n")
    most, setting = limits.max_completion_tokens, "limits.max_completion_tokens"
    tokens = max([_asked(name, getattr(asked, name), most, setting) for name in _TOKENS])
    return int(min(max(0.0, tokens), _MOST))


def _asked(name: str, field: msgspec.Raw | msgspec.UnsetType, limit: int | None, setting: str) -> float:
    if isinstance(field, msgspec.UnsetType):
        return 0.0
    value = _value(field)
    number = _number(value)
    if limit is not None and number > limit:
        raise Rejection(Reason.BAD_REQUEST, f"'{name}' is {value}, more than {limit} ({setting})", name)
    return number


def _value(field: msgspec.Raw) -> Any:
    """The field's value. A long number counts as infinite; other long values are not read, because lists may be endless."""
    raw = memoryview(field)
    if len(raw) <= _LONGEST:
        try:
            return msgspec.json.decode(raw)
        except UNREADABLE:  # a text with half a surrogate pair
            return None
    return math.inf if bytes(raw[:_LONGEST]).strip(b'" ').isdigit() else None


def _number(value: Any) -> float:
    """The number that an engine would read: vLLM reads "5" as 5. Other values ask for nothing."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return 0.0
