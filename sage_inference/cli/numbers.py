"""Numbers as people read them."""

from __future__ import annotations


def milliseconds(ms: float) -> str:
    """``2,500``, ``12.5``, ``0.04``: four digits below a second, whole milliseconds above."""
    return f"{ms:,.0f}" if ms >= 1000 else f"{ms:.4g}"
