"""Makes text from outside safe to print, by escaping control characters."""

from __future__ import annotations

import re

_IN_TEXT = "\n\t\u200c\u200d\u200e\u200f"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_HARMLESS = ("Zs", "Cn", "Co")  # spaces, unassigned letters, letters of private use


def visible(text: str) -> str:
    """``text`` on one line, with each unprintable character as an escape such as ``\\x1b``.

    Unprintable characters are C0 and C1 controls, line breaks, directional overrides and other invisible formats,
    spaces other than ``" "``, and surrogates. They could steer a terminal or forge a line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def without_colours(text: str) -> str:
    """``text`` without the codes that colour it on a terminal."""
    return _COLOUR.sub("", text)


def visible_text(text: str) -> str:
    """Like ``visible`` for text of several lines in any script. Line breaks and tabs stay, carriage returns go.

    Only characters that could steer a terminal are escaped. Joiners and marks of direction, which some scripts need,
    stay, and so do letters that this version of Unicode does not have.
    """
    if text.isprintable():
        return text
    from unicodedata import category

    return "".join(
        c
        if c.isprintable() or c in _IN_TEXT or category(c) in _HARMLESS
        else c.encode("unicode_escape").decode("ascii")
        for c in text.replace("\r", "")
    )


def visible_json(text: str) -> str:
    """A JSON text with unprintable characters in JSON's own escapes. Its line breaks stay.

    Such characters occur only in strings, where ``\\uXXXX`` means the same.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
