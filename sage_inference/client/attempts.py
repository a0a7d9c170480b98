"""Decides whether and when a failed call is repeated."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from sage_inference.client.errors import InferenceConnectionError, InferenceTimeoutError, SageInferenceError

# Statuses after which a call is repeated. Inference changes nothing on the server, so sending a request twice costs
# time but is never wrong. Errors that would most likely come again are left out (other 4xx, 500, 504).
_STATUSES = frozenset({408, 429, 502, 503})
_FIRST_S = 0.25
_MOST_S = 8.0


class Attempts:
    """The attempts of one call: at most ``retries`` after the first, all of them within ``timeout`` seconds.

    The delay is the server's ``Retry-After`` or a bit more. Without that header it is 0.25 s or a bit less, and doubles
    each time up to 8 s. The delay is random, so that callers that failed together do not return together.
    """

    def __init__(
        self,
        timeout: float,
        retries: int,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._timeout = timeout
        self._deadline = clock() + timeout
        self._retries = self._left = retries
        self._made = 0

    def again(self) -> Attempts:
        """Attempts for another request of the same call: the same number, within the same time."""
        other = Attempts(self._timeout, self._retries, self._clock, self._rng)
        other._deadline = self._deadline
        return other

    def remaining(self) -> float:
        """Seconds left for an attempt. Raises ``InferenceTimeoutError`` if none are left."""
        left = self._deadline - self._clock()
        if left <= 0:
            raise InferenceTimeoutError(f"no answer within {self._timeout:g} s")
        return left

    def delay_after(self, error: SageInferenceError) -> float:
        """Seconds until the next attempt. Raises ``error`` if there must not be one."""
        again = isinstance(error, InferenceConnectionError) or error.status in _STATUSES
        if not again or self._left == 0:
            raise error
        wait = self._wait(error.retry_after)
        if wait >= self._deadline - self._clock():
            raise error  # no time would be left after the delay
        self._left -= 1
        self._made += 1
        return wait

    def _wait(self, asked: float | None) -> float:
        if asked is not None:
            return asked + self._rng() * min(asked, 1.0)
        backoff: float = min(_MOST_S, _FIRST_S * 2**self._made)
        return backoff * (0.5 + self._rng() / 2)
