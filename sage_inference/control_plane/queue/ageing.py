"""Ageing: the share of the work that a request gets because it has waited long, whatever the order."""

from __future__ import annotations

from dataclasses import dataclass

from sage_inference.control_plane.cost import DECODE_TOKENS
from sage_inference.control_plane.slo import ttft_s
from sage_inference.types import SchedulingRequest

MOST_DEFERRED_S = 120.0  # about as long as requests wait by default, see ``timeouts.queue_s``


@dataclass(frozen=True, slots=True)
class Ageing:
    """The law of one kind of order. Times are seconds.

    A request is due a·T + b·max(0, p - T) after its arrival. T is its time to the first token, and p the time of its
    prompt. A prompt that takes longer than T by itself is never in time, and each of its seconds delays all others. The
    second term is at most ``MOST_DEFERRED_S``, because a prompt of any length must be due at some time: p follows a
    learned pace, which short prompts with a slow first byte can raise a thousandfold.

    From then on, requests that are due get one part in n of the work, in the order of the times when they became due: a
    request goes next once n - 1 times its own work was placed for others. So whatever comes later, a request waits for no
    more than n times the work that was due before it, after it is due itself.
    """

    a: float
    b: float
    n: int

    def due_at(self, request: SchedulingRequest, prompt_ms: float) -> float:
        in_time_s = ttft_s(request)
        beyond_s = prompt_ms / 1000 - in_time_s
        deferred_s = min(MOST_DEFERRED_S, self.b * beyond_s) if beyond_s > 0.0 else 0.0
        return request.arrived + self.a * in_time_s + deferred_s

    def is_next(self, request: SchedulingRequest, passed: int) -> bool:
        """Whether a request that is due goes next, after work ``passed`` was placed for others."""
        return passed >= (self.n - 1) * work_of(request)


def work_of(request: SchedulingRequest) -> int:
    return request.prompt_tokens + DECODE_TOKENS


# In these orders every request moves up as others are served. Ageing only corrects them.
STEADY = Ageing(a=10.0, b=0.0, n=8)
# In an order that defers overdue requests, nothing else bounds their wait while load exceeds capacity.
DEFERRED = Ageing(a=3.0, b=100.0, n=5)
