"""Checks that a key takes a single value."""

from __future__ import annotations

import math

from sage_inference.config.errors import Invalid, meant, quote
from sage_inference.config.formats import FORMATS
from sage_inference.config.scalars import Plain, plain
from sage_inference.config.schema import LARGEST, Key, Shape
from sage_inference.config.secrets import Secret

_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "text": "text",
    "secret": "text",
}


def check_value(key: Key, shape: Shape, value: Plain) -> Plain | Secret:
    """``value`` as the schema's type. Raises ``Invalid``, which names the values that the key takes.

    The error never quotes a secret.
    """
    if value is None:
        if shape.optional:
            return None
        raise Invalid(f"must be {wanted(key, shape)}, not null", "leave the key out for its default")
    if shape.is_text:
        return _text(key, shape, value)
    if shape.kind == "boolean":
        if not isinstance(value, bool):
            raise Invalid(f"must be true or false, not {shown(value)}")
        return value
    return _number(key, shape, value)


def from_word(key: Key, shape: Shape, text: str) -> Plain | Secret:
    """Like ``check_value`` with an unquoted word from outside YAML. Text keys take the word as it is."""
    return check_value(key, shape, text if shape.is_text else plain(text.strip()))


def wanted(key: Key, shape: Shape) -> str:
    """The values that are accepted, in words."""
    if key.choices:
        return "one of " + ", ".join(key.choices)
    return _NAMES[shape.kind] + span(key, shape)


def span(key: Key, shape: Shape) -> str:
    """`` from A to B``, `` of at least A``, or nothing."""
    if shape.kind not in ("integer", "number") or (key.minimum is None and key.maximum is None):
        return ""
    if key.maximum is None:
        return f" of at least {key.minimum}"
    return f" of at most {key.maximum}" if key.minimum is None else f" from {key.minimum} to {key.maximum}"


def shown(value: Plain) -> str:
    """A value as an error may quote it."""
    if isinstance(value, str):
        return f"the text {quote(value)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _text(key: Key, shape: Shape, value: Plain) -> str | Secret:
    secret = shape.kind == "secret"
    if not isinstance(value, str):
        what = "a number or a word of YAML" if secret else shown(value)
        raise Invalid(
            f"must be {wanted(key, shape)}, not {what}", None if key.choices else "put it in quotes"
        )
    if not value.strip():
        raise Invalid("must not be empty", "leave the key out for its default")
    if not value.isprintable():
        raise Invalid("must not hold line breaks, tabs or other control characters")
    if key.choices and value not in key.choices:
        raise Invalid(f"must be {wanted(key, shape)}, not {quote(value)}", meant(value, key.choices))
    if key.format:
        FORMATS[key.format](value)
    return Secret(value.strip()) if secret else value.strip()


def _number(key: Key, shape: Shape, value: Plain) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise Invalid(f"must be {wanted(key, shape)}, not {shown(value)}")
    low = -LARGEST if key.minimum is None else key.minimum
    high = LARGEST if key.maximum is None else key.maximum
    if shape.kind == "integer" and not isinstance(value, int):
        # 5.0 is how some tools write 5 into YAML; 5.5 and infinity are mistakes.
        if not value.is_integer():
            raise Invalid(f"must be {wanted(key, shape)}, not {shown(value)}")
        value = int(value)
    if not low <= value <= high:
        limit = f" of at most {LARGEST}" if value > high == LARGEST else ""
        raise Invalid(
            f"must be {_NAMES[shape.kind] + limit if limit else wanted(key, shape)}, not {shown(value)}"
        )
    return float(value) if shape.kind == "number" else value
