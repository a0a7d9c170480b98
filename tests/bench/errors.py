"""What keeps a measurement from being taken."""

from __future__ import annotations


class BenchError(Exception):
    """The message names what is missing or failed, and how to mend it."""
