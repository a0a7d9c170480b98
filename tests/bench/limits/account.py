"""The account of one key: its limits, and all that its callers asked for and got."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from tests.bench.limits.asks import Ask

MINUTE_S = 60.0
_KINDS = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent_requests")
_RANGES = {
    "requests_per_minute": (30, 300),
    "tokens_per_minute": (3000, 30_000),
    "tokens_per_day": (3000, 30_000),
    "concurrent_requests": (1, 6),
}
_ALSO = 0.3  # how often a key has one of the other limits too


@dataclass(frozen=True, slots=True)
class Served:
    """A request that was let in. Tokens of one whose caller left are known within bounds only."""

    at: float  # seconds since the start of the run, when it was sent
    ended: float
    least: int
    most: int


@dataclass(slots=True)
class Account:
    """``limits`` as in the configuration; empty for a key without any."""

    name: str
    limits: dict[str, int]
    served: list[Served] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)  # by the limit that the answer names
    others: Counter[int] = field(default_factory=Counter)  # other statuses; 0 for a connection that broke
    asking: int = 0  # sent and not ended
    running: int = 0  # of these, the ones whose answer has begun
    most_running: int = 0
    largest: int = 0  # tokens of its largest request
    is_full: bool = False

    @property
    def secret(self) -> str:
        return f"sk-of-{self.name}"

    @property
    def callers(self) -> int:
        """Enough to ask for more than is allowed."""
        return max(4, self.limits.get("concurrent_requests", 0) + 2)

    @property
    def entry(self) -> dict[str, object]:
        """Its entry in ``api_keys``."""
        return {"name": self.name, "key": self.secret, "limits": self.limits}

    def begun(self) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)

    def note(self, ask: Ask, served: Served) -> None:
        self.served.append(served)
        self.largest = max(self.largest, ask.prompt_tokens + ask.max_tokens)

    def refused(self, limit: str) -> None:
        self.refusals[limit] += 1
        if self.asking == 1 or (limit == "concurrent_requests" and self._only_concurrency_binds):
            self.is_full = True

    @property
    def _only_concurrency_binds(self) -> bool:
        return self.limits.keys() == {"concurrent_requests"} and len(self.served) >= 20

    # The outcome

    def beyond(self, counted: int) -> float:
        """How far it was over a limit, in requests: of its largest one for tokens. Below 0: under all of them.

        ``counted``: its tokens as the gateway has them. Of a minute in a longer run they are those that callers saw.
        """
        over: list[float] = (
            [self.most_running - self.limits["concurrent_requests"]] if self._has("concurrent") else []
        )
        if self._has("requests_per"):
            over.append(self._most_in_a_minute(tokens=False) - self.limits["requests_per_minute"])
        if self._has("tokens_per_minute"):
            most = counted if self._is_one_minute else self._most_in_a_minute(tokens=True)
            over.append((most - self.limits["tokens_per_minute"]) / self.largest)
        if self._has("tokens_per_day"):
            over.append((counted - self.limits["tokens_per_day"]) / self.largest)
        return max(over)

    def unused(self, counted: int) -> float:
        """The share of its limits that it did not get in the first minute, of the limit that it came nearest to.

        ``counted``: its tokens as the gateway has them. In a longer run those of the first minute are known within the
        bounds of what callers saw, and the upper ones count.
        """
        first = [each for each in self.served if each.at < MINUTE_S]
        tokens = counted if self._is_one_minute else sum(each.most for each in first)
        used = {
            "requests_per_minute": len(first),
            "tokens_per_minute": tokens,
            "tokens_per_day": tokens,
            "concurrent_requests": self._most_at_once(),
        }
        return max(0.0, 1 - max(used[limit] / most for limit, most in self.limits.items()))

    def _most_at_once(self) -> int:
        """The most requests that were let in and had not ended. Not exact: the gateway let them in a bit later."""
        events = sorted([(each.at, 1) for each in self.served] + [(each.ended, -1) for each in self.served])
        most = now = 0
        for _, change in events:
            now += change
            most = max(most, now)
        return most

    @property
    def _is_one_minute(self) -> bool:
        return all(each.at < MINUTE_S for each in self.served)

    def _has(self, begin: str) -> bool:
        return any(limit.startswith(begin) for limit in self.limits)

    def _most_in_a_minute(self, *, tokens: bool) -> int:
        """The most that any 60 seconds had."""
        found = sorted((each.at, each.least if tokens else 1) for each in self.served)
        most = total = first = 0
        for at, amount in found:
            total += amount
            while found[first][0] <= at - MINUTE_S:
                total -= found[first][1]
                first += 1
            most = max(most, total)
        return most


def accounts(rng: random.Random, count: int, scale: float) -> list[Account]:
    """Keys with random limits, the first of each kind in turn. ``scale``: of all but the requests at a time."""

    def most(kind: str) -> int:
        least, largest = _RANGES[kind]
        factor = 1.0 if kind == "concurrent_requests" else scale
        return max(1, round(rng.randint(least, largest) * factor))

    found = []
    for number in range(count):
        first = _KINDS[number % len(_KINDS)]
        also = [kind for kind in _KINDS if kind != first and rng.random() < _ALSO]
        found.append(Account(f"key-{number}", {kind: most(kind) for kind in (first, *also)}))
    return found
