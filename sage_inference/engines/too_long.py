"""Whether an engine's refusal means that prompt and answer do not fit into its context."""

from __future__ import annotations

import re

STATUSES = frozenset({400, 413, 422})
_MOST_BYTES = 8192  # behind its reason, an error may repeat the request
_WORDS = re.compile(
    rb"context[ _](?:length|size|window)|max_model_len|maximum model length|max_new_tokens. must be"
    rb"|exceed_context|maximum (?:input|sequence|total) (?:length|tokens)",
    re.IGNORECASE,
)


def says_too_long(body: bytes) -> bool:
    return _WORDS.search(body, 0, _MOST_BYTES) is not None
