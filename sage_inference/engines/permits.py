"""How many calls a TEI takes at once: it gives a permit to each text, and refuses a call that cannot have all of its own."""

from __future__ import annotations

from collections.abc import Mapping

from sage_inference.engines.detect import Detected
from sage_inference.types import EngineKind

_PERMITS, _TEXTS = 512, 32  # TEI's defaults
_SHARE = 4  # calls there must be room for, however many texts one may have


def texts_a_call(limits: Mapping[str, int]) -> int:
    """How many texts a call may have, so that others find permits beside it."""
    permits = limits.get("max_concurrent_requests") or _PERMITS
    return max(1, min(limits.get("max_client_batch_size") or _TEXTS, permits // _SHARE))


def calls_at_once(detected: Detected) -> int:
    """How many calls may be under way; 0 is no limit.

    A call that ranks mostly has as many texts as it may. One beyond would be refused, while it can wait here.
    """
    permits = detected.limits.get("max_concurrent_requests", 0)
    if detected.engine is EngineKind.TEI and "/rerank" in detected.routes and permits:
        return max(1, permits // texts_a_call(detected.limits))
    return permits
