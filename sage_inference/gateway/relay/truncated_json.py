"""Completes a JSON object that was cut off, and adds members of our own."""

from __future__ import annotations

import json
import re

_TOKEN = re.compile(rb'\s*("(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+)', re.DOTALL)
_OPEN_STRING = re.compile(rb'\s*"(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*(\\(?:u[0-9a-fA-F]{0,3})?)?', re.DOTALL)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = (b"true", b"false", b"null")

# The part that must come next in the innermost object or array. FIRST: a key or a value, or the closing byte.
_FIRST, _KEY, _COLON, _VALUE, _COMMA = range(5)
# The text that stands in for each part if it is missing.
_MISSING = {_FIRST: b"", _KEY: b'"":null', _COLON: b":null", _VALUE: b"null", _COMMA: b""}


def completion(text: bytes, members: bytes) -> bytes | None:
    """The bytes after ``text``, the start of an object, that complete it and end it with ``members``.

    ``members`` is JSON without the braces. None if the text is complete already, or not the start of an object.
    """
    levels: list[list[int]] = []  # closing byte and state of each open object or array, outermost first
    at, end = 0, b""
    while at < len(text) and not text[at:].isspace():
        token = _TOKEN.match(text, at)
        if token is None:
            lacks, at = _lacks_of_string(text[at:]), len(text)
            if levels:
                _value_ended(levels[-1])
        else:
            at = token.end()
            lacks = _note(levels, token[1], at == len(text))
        if lacks is None or not levels:
            return None
        end = lacks
    end += _closing(levels) + members + b"}"
    return end if _is_object(text + end) else None


def missing_bytes(text: bytes) -> bytes:
    """The bytes that the last character of a UTF-8 text lacks; none if it is complete."""
    for back in range(1, min(3, len(text)) + 1):
        lead = text[-back]
        if 0x80 <= lead < 0xC0:
            continue
        missing = (1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4) - back
        if missing <= 0:
            break
        for second in (0x80, 0x90, 0xA0):  # after some lead bytes only a part of the second bytes is valid
            rest = bytes([second]) + b"\x80" * (missing - 1)
            try:
                (text[-back:] + rest).decode()
            except UnicodeDecodeError:
                continue
            return rest
        break
    return b""


def _note(levels: list[list[int]], token: bytes, is_last: bool) -> bytes | None:
    """Note the token in ``levels``. Returns the bytes that it lacks if it is the last; None if it is not valid there."""
    if token in (b"{", b"["):
        levels.append([ord("}" if token == b"{" else "]"), _FIRST])
        return b""
    if not levels:
        return None
    level = levels[-1]
    if token in (b"}", b"]"):
        levels.pop()
        if levels:
            _value_ended(levels[-1])
    elif token == b":":
        level[1] = _VALUE
    elif token == b",":
        level[1] = _KEY if level[0] == ord("}") else _VALUE
    else:
        _value_ended(level)
        if is_last and not token.startswith(b'"'):
            return _lacks_of_scalar(token)
    return b""


def _value_ended(level: list[int]) -> None:
    """Note that a key or a value of the object or array is complete."""
    is_key = level[0] == ord("}") and level[1] in (_FIRST, _KEY)
    level[1] = _COLON if is_key else _COMMA


def _closing(levels: list[list[int]]) -> bytes:
    """The bytes before our members: the ends of all objects but the outermost, and a comma if one is due."""
    if not levels:
        return b"{"
    state = levels[-1][1]
    if len(levels) == 1:
        return b"" if state in (_FIRST, _KEY) else _MISSING[state] + b","
    return _MISSING[state] + bytes(closer for closer, _ in reversed(levels[1:])) + b","


def _lacks_of_string(text: bytes) -> bytes | None:
    found = _OPEN_STRING.fullmatch(text)
    if found is None:
        return None
    escape = found[1] or b""
    if escape == b"\\":
        return b'\\"'
    return (b"0" * (6 - len(escape)) if escape else missing_bytes(text)) + b'"'


def _lacks_of_scalar(token: bytes) -> bytes | None:
    for word in _WORDS:
        if word.startswith(token):
            return word[len(token) :]
    for rest in (b"", b"0"):
        if _NUMBER.fullmatch(token + rest):
            return rest
    return None


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
