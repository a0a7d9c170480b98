"""Numbers as people read them."""

from __future__ import annotations


def milliseconds(ms: float) -> str:
    """``2,500``, ``12.5``, ``0.04``: four digits below a second, whole milliseconds above."""
    return f"{ms:,.0f}" if ms >= 1000 else f"{ms:.4g}"


def duration(seconds: float) -> str:
    """``8.4 ms``, ``210 ms``, ``1.25 s``, ``12 s``, ``3 min 5 s``."""
    if seconds < 0.9995:
        ms = seconds * 1000
        return f"{ms:.2g} ms" if ms < 10 else f"{ms:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s"
