"""The predicted cost of one more request on an instance, in milliseconds. Policies place by it, and explain shows it.

c = B + k·(n − h) + k·267·nin: the instance's backlog, the prompt's own prefill, and what runs there. k is the
instance's milliseconds a token, n the prompt's tokens, h those of them that are cached, nin the requests in flight.
"""

from __future__ import annotations

from collections.abc import Sequence

from sage_inference.types import ExecutionInstance, SchedulingRequest

DECODE_TOKENS = 267  # uncached prompt tokens that cost as much as a running request
# Milliseconds a token. Beyond these bounds a clock or a sum is wrong. No attempt takes longer than an hour.
LEAST_PACE, MOST_PACE = 1e-4, 1e3
LONGEST_MS = 3.6e6
ALIKE = 1.5  # paces within this factor of their median differ by chance


def backlog_ms(ms_per_token: float, pending_tokens: float, since_progress_s: float) -> float:
    """B = max(0, k·Q − (now − mark)): the prefills that an instance has left; Q were its tokens at its last progress."""
    left = ms_per_token * pending_tokens - since_progress_s * 1000
    return left if left > 0.0 else 0.0


def prefill_ms(ms_per_token: float, uncached_tokens: float) -> float:
    """k·(n − h): the time of the prompt itself."""
    return ms_per_token * uncached_tokens


def expected_ms(
    ms_per_token: float, backlog: float, uncached_tokens: float, alone: tuple[float, float]
) -> float:
    """The time to the first byte, with what a request takes outside of its prompt: for a deadline, and for people.

    ``alone`` are c and k' of ``accounting.lone_prompts``. Without a backlog it is c + k'·(n - h). Behind other prompts that
    time passes while they are computed, so it is only the least. ``first_byte_ms`` compares instances: c is about the same
    for all of them.
    """
    least = alone[0] + (alone[1] or ms_per_token) * uncached_tokens
    return max(least, backlog + ms_per_token * uncached_tokens) if backlog > 0.0 else least


def first_byte_ms(ms_per_token: float, backlog: float, uncached_tokens: float) -> float:
    """B + k·(n − h): the time to the first byte. Running requests are left out, because they do not delay it much."""
    return backlog + ms_per_token * uncached_tokens


def uncached(request: SchedulingRequest, instance: ExecutionInstance) -> int:
    """n − h: the prompt tokens that the instance has not cached."""
    return request.prompt_tokens - request.cached_tokens.get(instance, 0)


def cost_ms(ms_per_token: float, backlog: float, uncached_tokens: float, running: float) -> float:
    """c, given B and n − h."""
    return backlog + ms_per_token * (uncached_tokens + DECODE_TOKENS * running)


def bounded_pace(pace: float) -> float:
    """The pace within the bounds that any engine keeps, whatever was measured."""
    return min(max(pace, LEAST_PACE), MOST_PACE) if pace == pace else MOST_PACE


def even_paces(own: Sequence[float]) -> list[float]:
    """The paces that policies use, given each instance's own: one mean for those that are near the median.

    Equal instances measure paces a few percent apart. With those, traffic would go to the one that looks fastest until it
    no longer does. The median is taken because one slow instance must not make the others look slow.
    """
    if not own:
        return []
    if max(own) <= ALIKE * min(own):  # the usual case: then all are near the median, whichever it is
        return [sum(own) / len(own)] * len(own)
    median = lower_median(own)
    least, most = median / ALIKE, median * ALIKE
    alike = [pace for pace in own if least <= pace <= most]
    mean = sum(alike) / len(alike)
    return [mean if least <= pace <= most else pace for pace in own]


def lower_median(values: Sequence[float]) -> float:
    """The middle value; of an even number the lower of the two, so that it is one of them."""
    return sorted(values)[(len(values) - 1) // 2]
