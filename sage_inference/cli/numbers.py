"""Numbers as people read them."""

from __future__ import annotations


def milliseconds(ms: float) -> str:
    """``2,500``, ``12.5``, ``0.04``: four digits below a second, whole milliseconds above."""
    return f"{ms:,.0f}" if ms >= 1000 else f"{ms:.4g}"


def seconds(s: float) -> str:
    """``4 ms``, ``0.21 s``, ``12 s``, ``3 min 5 s``."""
    if s < 0.01:
        return f"{s * 1000:.1g} ms"
    if s < 60:
        return f"{s:.2f} s" if s < 10 else f"{s:.0f} s"
    return f"{int(s) // 60} min {int(s) % 60} s"
