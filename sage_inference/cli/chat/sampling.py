"""The settings of ``--set`` and ``/set``: fields of the request, and their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from sage_inference.cli.errors import usage


def _number(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not least <= value <= most or math.isnan(value):
            raise ValueError
        return value

    read.__doc__ = f"a number from {least:g} to {most:g}" if most < 1e6 else f"a number from {least:g} up"
    return read


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if len(text) > 18 or not text.lstrip("-").isdecimal() or int(text) < least:
            raise ValueError
        return int(text)

    read.__doc__ = f"a whole number from {least} up"
    return read


def _text(text: str) -> str:
    """a text"""
    if not text:
        raise ValueError
    return text


FIELDS: dict[str, Callable[[str], Any]] = {
    "temperature": _number(0, 2),
    "max_tokens": _whole(1),
    "top_p": _number(0, 1),
    "top_k": _whole(-1),
    "min_p": _number(0, 1),
    "seed": _whole(0),
    "stop": _text,
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "repetition_penalty": _number(0, 1e9),
    "reasoning_effort": _text,
}


def field(name: str, value: str) -> Any:
    """The value of a setting. Raises a usage failure that names the choices."""
    known = name.strip().replace("-", "_").lower()
    if known not in FIELDS:
        from difflib import get_close_matches

        close = get_close_matches(known, FIELDS, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise usage(f'no setting "{name[:80]}"{meant}', f"there are: {', '.join(FIELDS)}")
    try:
        return FIELDS[known](value.strip())
    except ValueError:
        raise usage(f'{known} is {FIELDS[known].__doc__}, not "{value[:80]}"') from None


def fields(given: Iterable[str]) -> dict[str, Any]:
    """The settings of ``--set NAME=VALUE``."""
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise usage(f'--set "{pair[:80]}" has no value', "as in: --set temperature=0.2")
        found[canonical(name)] = field(name, value)
    return found


def canonical(name: str) -> str:
    return name.strip().replace("-", "_").lower()
