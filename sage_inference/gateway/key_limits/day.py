"""The tokens of a day, by UTC."""

from __future__ import annotations

DAY_S = 86400.0


class DayTotal:
    """Tokens that were used on the current day. ``now`` is seconds since 1970, UTC."""

    __slots__ = ("day", "is_restored", "tokens")

    def __init__(self) -> None:
        self.day = 0
        self.tokens = 0
        self.is_restored = False  # whether they have what was used before this total was made

    def advance(self, now: float) -> int:
        """Begin a new day at midnight. Returns the tokens of today.

        A clock that is set back by less than a day begins no new one: the tokens would be free again.
        """
        day = int(now // DAY_S)
        if day > self.day or day < self.day - 1:
            self.day, self.tokens = day, 0
        return self.tokens

    def add(self, tokens: int, now: float) -> None:
        self.advance(now)
        self.tokens += tokens


def until_midnight(now: float) -> float:
    """Seconds until the next day begins."""
    return DAY_S - now % DAY_S
