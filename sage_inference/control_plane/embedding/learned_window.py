"""The number of bulk calls that pay at one engine, learned from its throughput."""

from __future__ import annotations

import math

LEVELS = (2, 3, 4, 5, 6, 8, 10, 12, 16)  # calls; each step is a change that throughput can show
FEWEST_PAIRS, MOST_PAIRS = 3, 8  # of periods, compared before a decision
EPOCH_CALLS = 8
LEAST_ERROR = 0.02  # of a comparison: fewer pairs can agree by chance
REST, MOST_REST = 4, 64  # periods between two comparisons; more and more while nothing changes
START = LEVELS[-1]  # while only bulk requests come
# While interactive requests come: one call in work, and one that is there when the engine has finished it. A comparison
# with a higher level delays those requests, so it is rare.
COMPANY, COMPANY_REST, MOST_COMPANY_REST = 2, 64, 1024
COMPANY_S = 15.0  # an interactive request is followed by others for so long


class Climb:
    """A hill climb over ``LEVELS``: periods at one level and at its neighbour take turns, and their rates are compared.

    The question is the one of Netflix's concurrency-limits (github.com/Netflix/concurrency-limits). There, ``VegasLimit``
    keeps ``limit * (1 - rtt_noload / rtt)`` requests queued, and ``Gradient2Limit`` multiplies the limit by the gradient
    ``clamp(tolerance * longRTT / shortRTT)`` and adds ``sqrt(limit)``. Both need round trips of requests that are alike, and
    Vegas needs moments without load. Calls of texts differ a hundredfold in size, and bulk work leaves no such moment. So
    the rates themselves are compared, which are ``limit / rtt`` of either: tokens finished in a second.

    One period proves little, because rates of an engine vary by a fifth. Where pairs of periods show nothing, the level
    stays. ``up`` is the share of the ideal gain that a higher level must bring, and ``down`` the share that a lower level
    may lose. A negative ``down`` is a gain that it must bring.
    """

    __slots__ = (
        "_down",
        "_gains",
        "_home_rate",
        "_level",
        "_most_rest",
        "_rest",
        "_resting",
        "_shortest_rest",
        "_trial",
        "_up",
        "_upwards",
    )

    def __init__(
        self, start: int, *, up: float, down: float, rest: int = REST, most_rest: int = MOST_REST
    ) -> None:
        self._level = LEVELS.index(start)
        self._up, self._down = up, down
        self._trial: int | None = None  # the level that is compared with the present one
        self._upwards = True
        self._home_rate = 0.0  # of the present level, until the trial's is known
        self._gains: list[float] = []  # logarithms of the trial's rates over those of the present level
        self._rest = self._resting = self._shortest_rest = rest
        self._most_rest = most_rest

    @property
    def calls(self) -> int:
        """The level of the present period."""
        # A pair of periods begins with the present level.
        if self._trial is None or not self._home_rate:
            return LEVELS[self._level]
        return LEVELS[self._trial]

    def measured(self, rate: float) -> None:
        """Note the rate of a period at ``calls``, and choose the level of the next one."""
        if self._trial is None:
            self._resting -= 1
            if self._resting > 0:
                return
            self._begin()
            if self._trial is None:
                return
        if not self._home_rate:
            self._home_rate = rate
            return
        self._gains.append(math.log(rate / self._home_rate))
        self._home_rate = 0.0
        self._decide()

    def interrupted(self) -> None:
        """The period ended before its rate was known. A pair with it is no pair."""
        self._home_rate = 0.0

    def _begin(self) -> None:
        """Compare with the next neighbour: the upper and the lower one in turn."""
        for _ in range(2):
            trial = self._level + (1 if self._upwards else -1)
            if 0 <= trial < len(LEVELS):
                self._trial, self._gains = trial, []
                return
            self._upwards = not self._upwards

    def _decide(self) -> None:
        gains, trial = self._gains, self._trial
        assert trial is not None
        pairs = len(gains)
        if pairs < FEWEST_PAIRS:
            return
        mean = sum(gains) / pairs
        spread = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (pairs - 1))
        error = max(LEAST_ERROR, spread) / math.sqrt(pairs)
        ideal = math.log(LEVELS[trial] / LEVELS[self._level])
        needed = self._up * ideal if ideal > 0 else self._down * ideal
        if mean - error > needed:
            # The same direction again, and soon: the present level was far from the right one.
            self._level, self._rest = trial, self._shortest_rest
        elif mean + error < needed or pairs >= MOST_PAIRS:
            self._upwards = not self._upwards
            self._rest = min(self._most_rest, 2 * self._rest)
        else:
            return
        self._trial, self._resting = None, self._rest


class LearnedWindow:
    """The bulk calls that an engine may have at a time: ``calls``.

    While interactive requests come, each call before them delays them. So there are two, and more only where they bring
    most of what they could. While only bulk requests come, nobody gains from a small window, and callers without a
    gateway would have sent all of their calls. So it begins with the highest level, and falls only where throughput
    rises: before vLLM on an H200, 6 calls had 0.94 of the rate of 16. An engine that fills batches of a known size needs
    two.
    """

    __slots__ = (
        "_alone",
        "_began",
        "_climb",
        "_company",
        "_last_interactive",
        "_left",
        "_settling",
        "_tokens",
        "calls",
        "counting",
        "rate",
    )

    def __init__(self, *, batches_known: bool = False) -> None:
        if batches_known:
            self._alone = self._company = Climb(LEVELS[0], up=0.25, down=0.05)
        else:
            self._alone = Climb(START, up=0.1, down=0.0)
            self._company = Climb(COMPANY, up=0.5, down=0.3, rest=COMPANY_REST, most_rest=MOST_COMPANY_REST)
        self._climb = self._alone
        self.calls = self._climb.calls
        self._last_interactive = -math.inf
        self.counting = False  # whether a period is under way
        self.rate: float | None = None  # tokens a second in the last whole period
        self._settling = self._left = 0  # answers until the period begins, and until it ends
        self._began = 0.0
        self._tokens = 0

    @property
    def in_company(self) -> bool:
        """Whether interactive requests come beside bulk requests."""
        return self._last_interactive > -math.inf

    def interactive(self, now: float) -> None:
        """An interactive request came while calls were in flight."""
        self._last_interactive = now
        if self._climb is not self._company:
            self._use(self._company)

    def finished(self, tokens: int, now: float, in_flight: int) -> None:
        """A call was answered, and bulk texts wait for the window: it decides the throughput."""
        if self.in_company and now - self._last_interactive > COMPANY_S:
            self._last_interactive = -math.inf
            if self._climb is not self._alone:
                self._use(self._alone)
        if not self.counting:
            # Calls that were sent under another window are answered first.
            self.counting, self._settling = True, max(1, in_flight)
        if self._settling:
            self._settling -= 1
            if not self._settling:
                self._began, self._tokens, self._left = now, 0, max(EPOCH_CALLS, 2 * self.calls)
            return
        self._tokens += tokens
        self._left -= 1
        if self._left <= 0 and now > self._began:
            self.rate = self._tokens / (now - self._began)
            self._climb.measured(self.rate)
            self.calls, self.counting = self._climb.calls, False

    def interrupted(self) -> None:
        """Bulk texts wait no more, or the process stood still. The answers so far do not show what the window brings."""
        self._use(self._climb)

    def _use(self, climb: Climb) -> None:
        self._climb.interrupted()
        self._climb = climb
        self.calls, self.counting = climb.calls, False
