"""Warnings about a configuration, on stderr."""

from __future__ import annotations

from typing import Any

from sage_inference.cli import terminal


def warn_of(settings: Any) -> None:
    from sage_inference.config.warnings import warnings_of

    for remark in warnings_of(settings):
        terminal.warn(remark.problem, remark.hint)
