"""The reason why a request cannot be served, as a value. The HTTP edge chooses status and shape."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Reason(Enum):
    BAD_REQUEST = auto()
    UNKNOWN_MODEL = auto()
    NO_ENGINE_FOR_ROUTE = auto()
    NO_HEALTHY_INSTANCE = auto()
    QUEUE_FULL = auto()
    QUEUE_TIMEOUT = auto()
    DEADLINE = auto()
    FAILED = auto()  # an exception while its instance was chosen


@dataclass(eq=False)
class Rejection(Exception):  # noqa: N818 - a verdict, raised or handed over
    """``param`` names the field at fault; ``retry_after_s`` is a promise computed from the queue's rate."""

    reason: Reason
    message: str
    param: str | None = None
    retry_after_s: int | None = None
