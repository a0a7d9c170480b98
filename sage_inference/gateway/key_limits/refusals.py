"""The answers to requests that their key does not allow."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.key_limits.budget import Exceeded, Limit
from sage_inference.gateway.key_limits.headers import retry_headers

_MOST_SHOWN = 20  # allowed models in an error

_WHAT = {
    Limit.REQUESTS: "{} requests a minute",
    Limit.TOKENS: "{} tokens a minute",
    Limit.CONCURRENT: "{} requests at the same time",
    Limit.DAY: "{} tokens a day, by UTC",
}


def over_limit(name: str, exceeded: Exceeded) -> ApiError:
    """A 429. SDKs repeat the request after the given time, except where only the next day helps."""
    limit, wait_s, used_up = exceeded.limit, exceeded.wait_s, exceeded.is_used_up
    what = _WHAT[limit].format(exceeded.most)
    again = f"in {math.ceil(wait_s)} s" if wait_s >= 1 else "at once"
    message = f'the key "{name}" may use {what} (api_keys[].limits.{limit.value}); try again {again}'
    # OpenAI's codes: programs give up on the first and wait on the second.
    code = "insufficient_quota" if used_up else "rate_limit_exceeded"
    return ApiError(
        429, message, "rate_limit_error", code, headers=retry_headers(wait_s, retries=not used_up)
    )


def model_not_allowed(name: str, model: str, allowed: Sequence[str]) -> ApiError:
    shown = ", ".join(allowed[:_MOST_SHOWN]) + (", ..." if len(allowed) > _MOST_SHOWN else "")
    message = f'the key "{name}" may not use model "{model}"; it may use {shown}'
    return ApiError(403, message, "permission_error", "model_not_allowed", "model")
