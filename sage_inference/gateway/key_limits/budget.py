"""The budget of one key: its use so far, and its limits. The law:

    used = tokens of ended requests that arrived in the last minute + tokens reserved by requests under way

A request is let in while less than the limit is used. It then reserves the estimated tokens of its prompt and the
answer that it asks for, and at its end the reservation is replaced by what it really used. So a key is over a limit by
at most the last request that was let in, and reservations that were too large keep nobody out for longer than their
requests run. Requests a minute and tokens a day follow the same law. Tokens count from the arrival of their request:
a slow answer takes no more of the limit than a fast one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from sage_inference.config.settings import KeyLimitSettings
from sage_inference.gateway.key_limits.day import DayTotal, until_midnight
from sage_inference.gateway.key_limits.models import AllowedModels
from sage_inference.gateway.key_limits.window import MinuteWindow

SOON_S = 1.0  # until another look, where it is unknown when a request under way ends


class Limit(Enum):
    """The limits of a key, by the names of their settings."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"
    CONCURRENT = "concurrent_requests"
    DAY = "tokens_per_day"


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The limit that a request is over, its value, and the seconds until the request may be repeated.

    ``is_used_up``: the limit of a day, of which nothing comes back before the next one.
    """

    limit: Limit
    most: int
    wait_s: float
    is_used_up: bool = False


class Hold:
    """The part of its key's budget that one request holds, from its arrival to its end."""

    __slots__ = ("_arrived", "_budget", "_ended", "reserved", "written")

    def __init__(self, budget: KeyBudget, arrived: int) -> None:
        self._budget = budget
        self._arrived = arrived  # the number of its bin
        self._ended = False
        self.reserved = 0
        self.written: Callable[[], int] | None = None  # the tokens that the request used so far

    def reserve(self, tokens: int) -> None:
        """Reserve ``tokens`` in all. Fewer than are reserved change nothing."""
        if tokens > self.reserved and not self._ended:
            self._budget.reserved += tokens - self.reserved
            self.reserved = tokens

    def end(self, used: int, *, refund: bool = False) -> None:
        """The request ended, and used so many tokens. ``refund``: it does not count as a request. Idempotent."""
        if self._ended:
            return
        self._ended = True
        self.written = None
        self._budget.give_back(self, self._arrived, max(0, used), refund=refund)


class KeyBudget:
    """The budget of one key. ``clock`` never goes back, ``wall`` is seconds since 1970."""

    limits: KeyLimitSettings
    models: AllowedModels

    def __init__(self, name: str, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.name = name
        self.requests = MinuteWindow()
        self.tokens = MinuteWindow()
        self.today = DayTotal()
        self.reserved = 0
        self.refused = 0  # requests that were over a limit, since the start
        self.holds: set[Hold] = set()
        self._clock = clock
        self._wall = wall

    @property
    def active(self) -> int:
        """Requests under way."""
        return len(self.holds)

    @property
    def is_in_use(self) -> bool:
        """Whether anything of it would be lost with it."""
        return bool(self.holds or self.tokens_today() or self.requests_last_minute())

    @property
    def counts_tokens(self) -> bool:
        return self.limits.tokens_per_minute is not None or self.limits.tokens_per_day is not None

    def exceeded(self) -> Exceeded | None:
        """The limit that one more request would be over, and that keeps it out for longest."""
        limits, now, found = self.limits, self._clock(), None
        most = limits.concurrent_requests
        if most is not None and len(self.holds) >= most:
            found = Exceeded(Limit.CONCURRENT, most, SOON_S)
        most = limits.requests_per_minute
        if most is not None:
            self.requests.advance(now)
            if self.requests.total >= most:
                found = _later(found, Exceeded(Limit.REQUESTS, most, self.requests.wait(now, most - 1)))
        most = limits.tokens_per_minute
        if most is not None:
            self.tokens.advance(now)
            if self.tokens.total + self.reserved >= most:
                wait = self.tokens.wait(now, max(0, most - 1 - self.reserved))
                found = _later(found, Exceeded(Limit.TOKENS, most, wait or SOON_S))
        most = limits.tokens_per_day
        if most is not None:
            wall = self._wall()
            used = self.today.advance(wall)
            if used >= most:
                return Exceeded(Limit.DAY, most, until_midnight(wall), is_used_up=True)
            if used + self.reserved >= most:  # the requests under way may use less than they reserved
                found = _later(found, Exceeded(Limit.DAY, most, SOON_S))
        return found

    def enter(self) -> Hold:
        """Count a request that begins now."""
        now = self._clock()
        arrived = self.requests.advance(now)
        self.requests.add(1, arrived)
        hold = Hold(self, arrived)
        self.holds.add(hold)
        return hold

    def give_back(self, hold: Hold, arrived: int, used: int, *, refund: bool) -> None:
        """Called by a hold that ends."""
        now = self._clock()
        self.holds.discard(hold)
        self.reserved -= hold.reserved
        self.requests.advance(now)
        self.tokens.advance(now)
        if refund:
            self.requests.add(-1, arrived)
        if used:
            self.tokens.add(used, arrived)
            self.today.add(used, self._wall())

    def follow(self) -> None:
        """Reserve more for requests that used more than they reserved. Called about once a second."""
        if self.counts_tokens:
            for hold in self.holds:
                if hold.written is not None:
                    hold.reserve(hold.written())

    # For the caller

    def requests_last_minute(self) -> int:
        self.requests.advance(self._clock())
        return self.requests.total

    def tokens_last_minute(self) -> int:
        """Of requests that ended."""
        self.tokens.advance(self._clock())
        return self.tokens.total

    def remaining_requests(self) -> int:
        most = self.limits.requests_per_minute or 0
        return max(0, most - self.requests_last_minute())

    def remaining_tokens(self) -> int:
        """Of the minute, or of the day where the minute has no limit."""
        most = self.limits.tokens_per_minute
        if most is None:
            return self.remaining_today()
        return max(0, most - self.tokens_last_minute() - self.reserved)

    def remaining_today(self) -> int:
        most = self.limits.tokens_per_day or 0
        return max(0, most - self.today.advance(self._wall()) - self.reserved)

    def tokens_today(self) -> int:
        return self.today.advance(self._wall())

    def requests_reset_s(self) -> float:
        """Seconds until no request counts any more."""
        return self.requests.wait(self._clock(), 0)

    def tokens_reset_s(self) -> float:
        """Seconds until all tokens are free again, if no request is under way."""
        if self.limits.tokens_per_minute is None:
            return until_midnight(self._wall()) if self.tokens_today() else 0.0
        return self.tokens.wait(self._clock(), 0)


def _later(one: Exceeded | None, other: Exceeded) -> Exceeded:
    return other if one is None or other.wait_s > one.wait_s else one
