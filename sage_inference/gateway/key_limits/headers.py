"""The headers in which an answer reports the limits of its key.

OpenAI's are ``x-ratelimit-limit-requests``, ``-remaining-…`` and ``-reset-…``, with a duration such as ``1m12s``.
Anthropic's, on ``/v1/messages``, are ``anthropic-ratelimit-requests-limit`` and so on, with a time by RFC 3339.
The SDKs of both wait by ``retry-after-ms`` and ``retry-after``, and heed ``x-should-retry``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from sage_inference.gateway.key_limits.budget import KeyBudget
from sage_inference.wire.message import Header

LONGEST_S = 60.0  # the SDKs ignore a longer wait, and come back after seconds
_ANTHROPIC = ("/v1/messages", "/v1/messages/count_tokens")


def rate_headers(budget: KeyBudget, path: str) -> tuple[Header, ...]:
    """The headers of an answer on this path. Empty if neither requests nor tokens are limited."""
    named = _anthropic if path in _ANTHROPIC else _openai
    limits = budget.limits
    found: list[Header] = []
    if limits.requests_per_minute is not None:
        most = limits.requests_per_minute
        found += named(b"requests", most, budget.remaining_requests(), budget.requests_reset_s())
    if budget.counts_tokens:
        most = limits.tokens_per_minute or limits.tokens_per_day or 0
        found += named(b"tokens", most, budget.remaining_tokens(), budget.tokens_reset_s())
    return tuple(found)


def retry_headers(wait_s: float, *, retries: bool) -> tuple[Header, ...]:
    """``retries``: whether an SDK should repeat the request by itself."""
    if not retries:
        return ((b"retry-after", b"%d" % max(1, math.ceil(wait_s))), (b"x-should-retry", b"false"))
    wait_s = min(wait_s, LONGEST_S)
    milliseconds = math.ceil(wait_s * 1000)
    return (
        (b"retry-after", b"%d" % max(1, math.ceil(wait_s))),
        (b"retry-after-ms", b"%d" % max(1, milliseconds)),
    )


def lines_of(headers: tuple[Header, ...]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def is_rate_header(line: bytes) -> bool:
    """Whether a header line of an engine reports limits: those of the gateway's own key there, not the caller's."""
    return line.lower().startswith((b"x-ratelimit-", b"anthropic-ratelimit-"))


def _openai(what: bytes, most: int, remaining: int, reset_s: float) -> Iterator[Header]:
    yield b"x-ratelimit-limit-%b" % what, b"%d" % most
    yield b"x-ratelimit-remaining-%b" % what, b"%d" % remaining
    yield b"x-ratelimit-reset-%b" % what, duration(reset_s).encode()


def _anthropic(what: bytes, most: int, remaining: int, reset_s: float) -> Iterator[Header]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(math.ceil(time.time() + reset_s)))
    yield b"anthropic-ratelimit-%b-limit" % what, b"%d" % most
    yield b"anthropic-ratelimit-%b-remaining" % what, b"%d" % remaining
    yield b"anthropic-ratelimit-%b-reset" % what, at.encode()


def duration(seconds: float) -> str:
    """As ``120ms``, ``8.64s``, ``6m0s`` or ``3h20m5s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 1000) / 1000:g}s"
    whole = math.ceil(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
