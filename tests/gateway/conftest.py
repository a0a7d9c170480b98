"""What tests of the gateway share."""

from __future__ import annotations

from tests.support.access_lines import lines

__all__ = ["lines"]
