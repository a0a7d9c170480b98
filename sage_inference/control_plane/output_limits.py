"""How much one request may ask an engine to generate, where the settings limit it."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.body import read_leniently
from sage_inference.control_plane.refusal import Refusal, Why

# Which fields ask for how much, in all the protocols that are relayed.
_ANSWERS = ("n", "best_of")
_TOKENS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_Asked = msgspec.defstruct("_Asked", [(name, Any, None) for name in (*_ANSWERS, *_TOKENS)], gc=False)
_decode = msgspec.json.Decoder(_Asked).decode


def check_output(body: bytes, limits: LimitSettings) -> None:
    """Raises ``Refusal`` for a field above its limit. A field that is absent is the engine's to decide on."""
    try:
        asked = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        document = read_leniently(body, error)
        asked = _Asked(**{name: document.get(name) for name in (*_ANSWERS, *_TOKENS)})
    for name in _ANSWERS:
        _check(name, getattr(asked, name), limits.max_n, "limits.max_n")
    for name in _TOKENS:
        _check(name, getattr(asked, name), limits.max_completion_tokens, "limits.max_completion_tokens")


def _check(name: str, value: Any, limit: int | None, setting: str) -> None:
    if limit is not None and _number(value) > limit:
        raise Refusal(Why.BAD_REQUEST, f"'{name}' is {value}, more than {limit} ({setting})", name)


def _number(value: Any) -> float:
    """The number an engine would read: vLLM takes "5" for 5 too. What is none asks for nothing."""
    try:
        return float(value)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        return 0.0
