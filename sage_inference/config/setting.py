"""Declares one key of the schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any


def setting(
    default: Any = ...,
    *,
    doc: str,
    choices: Sequence[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    format: str | None = None,
    example: str | None = None,
    factory: Any = None,
    restart: bool = False,
    loose: bool = False,
    instead: Sequence[str] = (),
) -> Any:
    """A field of the schema: its default (``...`` = required), one line of help, and the values that it takes.

    ``restart``: the value takes effect only when a gateway starts.
    ``loose``: a number is taken as the text that was written, and one value as a list with that value.
    ``instead`` names other keys of the section. Exactly one of all these must be there.
    ``format`` names a form (see ``formats.py``) that the text, or each entry of a list, must have.
    """
    metadata = {
        "doc": doc,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "format": format,
        "example": example,
        "restart": restart,
        "loose": loose,
        "instead": instead,
    }
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    if default is ...:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)
