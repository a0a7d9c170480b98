"""Warnings about a configuration, on stderr."""

from __future__ import annotations

from typing import Any

from sage_inference.cli import terminal


def warn_of(settings: Any) -> set[str]:
    """Returns the warnings that were shown."""
    from sage_inference.config.warnings import warnings_of

    found = warnings_of(settings)
    for remark in found:
        terminal.warn(remark.problem, remark.hint)
    return set(map(str, found))
