"""A line of the gateway's log as a record."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any


def record(line: bytes) -> dict[str, Any]:
    """The record in ``line``. A line that is no JSON object (an interpreter's last words) is its message."""
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {"time": None, "level": None, "message": text}


def of_engine(line: bytes) -> dict[str, Any]:
    """A line that an engine printed, which may be anything, as a record."""
    return {"time": None, "level": None, "message": line.decode("utf-8", "replace").rstrip("\r\n")}
