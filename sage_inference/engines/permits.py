"""The number of calls that a TEI takes at once. It gives a permit to each text, and refuses a call that lacks one."""

from __future__ import annotations

from collections.abc import Mapping

from sage_inference.engines.detect import Detected
from sage_inference.types import EngineKind

_PERMITS, _TEXTS = 512, 32  # TEI's defaults
_SHARE = 4  # at least so many calls fit in at once, so one call gets at most this part of the permits


def texts_a_call(limits: Mapping[str, int]) -> int:
    """The number of texts that a call may have, so that permits are left for other calls."""
    permits = limits.get("max_concurrent_requests") or _PERMITS
    return max(1, min(limits.get("max_client_batch_size") or _TEXTS, permits // _SHARE))


def calls_at_once(detected: Detected) -> int:
    """The number of calls that may be under way; 0 means no limit.

    A call to rerank mostly has the most texts. With more calls the engine would refuse some, which can wait here.
    """
    permits = detected.limits.get("max_concurrent_requests", 0)
    if detected.engine is EngineKind.TEI and "/rerank" in detected.routes and permits:
        return max(1, permits // texts_a_call(detected.limits))
    return permits
