"""A secret that is masked everywhere but in ``reveal``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sage_inference.config.paths import expanded


def fits_header(value: str) -> bool:
    """Whether a key can be sent in a header: ASCII letters, digits and signs, in one word."""
    return value.isascii() and value.isprintable() and " " not in value


class SecretError(Exception):
    """A secret's source cannot be read. The message names the source, never its content."""


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A secret. ``source`` is the secret itself, or its place: ``env:NAME`` or ``file:PATH`` (``~`` is expanded)."""

    source: str

    @property
    def is_literal(self) -> bool:
        return not self.source.startswith(("env:", "file:"))

    def reveal(self, environ: Mapping[str, str] | None = None) -> str:
        """The secret itself, without surrounding white space. Raises ``SecretError`` if there is none."""
        kind, _, where = self.source.partition(":")
        if self.is_literal:
            value, name = self.source, "key"
        elif kind == "env":
            value, name = (
                (os.environ if environ is None else environ).get(where, ""),
                f"environment variable {where}",
            )
            if not value:
                raise SecretError(f"{name} is not set")
        else:
            name = f'file "{where}"'
            try:
                # Windows editors begin a file with a byte order mark, which no header can carry.
                value = expanded(where).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not text"
                raise SecretError(f"{name} is not readable: {reason}") from None
        value = value.strip()
        if not value:
            raise SecretError(f"{name} is empty")
        return value

    def masked(self) -> str:
        """The text that may be shown: the secret's place, or stars for a literal."""
        return "***" if self.is_literal else self.source

    def __repr__(self) -> str:
        return f"Secret({self.masked()})"

    __str__ = __repr__
