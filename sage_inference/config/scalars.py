"""Converts plain YAML words to values, and values to YAML."""

from __future__ import annotations

import json
import re

Plain = None | bool | int | float | str

_WORDS: dict[str, Plain] = {"": None, "~": None}
for _value, _names in ((None, ("null",)), (True, ("true", "yes", "on")), (False, ("false", "no", "off"))):
    for _name in _names:
        _WORDS |= dict.fromkeys((_name, _name.title(), _name.upper()), _value)

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_ZEROS = re.compile(r"[-+]?0[0-9]")

# Words that every reader of YAML accepts unquoted, even within [] and {}.
_UNQUOTED = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@+~-]*(:[A-Za-z0-9_./@+~-]+)*")


def plain(text: str) -> Plain:
    """The value of an unquoted word.

    Only forms that YAML 1.1 and 1.2 read alike get a type. ``010``, ``0x1f``, ``1:30`` and dates stay text,
    so that they are refused if a number is wanted.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        # Python refuses to convert very many digits. No setting is that large.
        return int(text.replace("_", "")) if len(text) <= 24 else float(text.replace("_", "")[:400])
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    if _NUMBER.fullmatch(text) and not _ZEROS.match(text):
        return float(text)
    return text


def word(value: object) -> str:
    """``value`` as YAML on one line: a scalar, or lists and mappings in their flow form."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            bare = _UNQUOTED.fullmatch(value) and isinstance(plain(value), str)
            return value if bare else json.dumps(value, ensure_ascii=False)
        case dict():
            return "{" + ", ".join(f"{word(str(k))}: {word(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(word, value)) + "]"
    raise TypeError(f"no YAML for {type(value).__name__}")


def lines(value: object) -> list[str]:
    """``value`` as the lines of a YAML block without indentation. A scalar is one line."""
    if isinstance(value, dict) and value:
        return [line for key, entry in value.items() for line in _entry(word(str(key)), entry)]
    if isinstance(value, list | tuple) and value:
        return [line for item in value for line in _hang("- ", lines(item))]
    return [word(value)]


def is_block(value: object) -> bool:
    """True for a value that reads better as a block: a mapping, or a list that holds one."""
    if isinstance(value, list | tuple):
        return any(isinstance(item, dict | list | tuple) and item for item in value)
    return isinstance(value, dict) and bool(value)


def _entry(key: str, value: object) -> list[str]:
    if not is_block(value):
        return [f"{key}: {word(value)}"]
    return [f"{key}:", *(f"  {line}" for line in lines(value))]


def _hang(mark: str, block: list[str]) -> list[str]:
    return [mark + block[0], *(" " * len(mark) + line for line in block[1:])]
