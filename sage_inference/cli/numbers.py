"""Numbers as people read them."""

from __future__ import annotations


def milliseconds(ms: float) -> str:
    """``2,500``, ``12.5``, ``0.04``: four digits below a second, whole milliseconds above."""
    return f"{ms:,.0f}" if ms >= 1000 else f"{ms:.4g}"


def count(number: float) -> str:
    """``950``, ``12,345``, ``1.23 M``, ``45.6 G``: exact below a million."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:,.0f} {unit}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """``8.4 ms``, ``210 ms``, ``1.25 s``, ``12 s``, ``3 min 5 s``."""
    if seconds < 0.9995:
        ms = seconds * 1000
        return f"{ms:.2g} ms" if ms < 10 else f"{ms:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s"
